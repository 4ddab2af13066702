//! PURE. The current replies, and which one a poller's line (`agent-send`) asks for.
//!
//! It must never know what a reply says.

/// A line is a pool's name. One that is longer names none, and is not read to its end.
pub(super) const LINE_LEN_MAX: usize = 256;

/// The current replies.
#[derive(Debug, Clone, Default)]
pub struct Replies {
    /// For pollers that name no pool, or an unknown one.
    pub default: Vec<u8>,
    /// For pollers that name a pool.
    pub pools: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Replies {
    /// The pool that a line names, if it is known, and the reply.
    pub(super) fn to(&self, line: &[u8]) -> (Option<&[u8]>, &[u8]) {
        let name = line.trim_ascii();
        match self.pools.iter().find(|(pool, _)| pool == name) {
            Some((pool, reply)) => (Some(pool), reply),
            None => (None, &self.default),
        }
    }
}

/// Adds what was received to a line. Returns whether the line is complete: it has ended, or is too long to name a pool.
pub(super) fn extend_line(line: &mut Vec<u8>, received: &[u8]) -> bool {
    line.extend_from_slice(received);
    let end = line.iter().position(|&b| b == b'\n' || b == b'\r');
    line.truncate(end.unwrap_or(line.len()));
    end.is_some() || line.len() >= LINE_LEN_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_complete_at_its_end_or_when_it_is_too_long() {
        let mut line = Vec::new();
        assert!(!extend_line(&mut line, b"jo") && extend_line(&mut line, b"bs\r\nrest"));
        assert_eq!(line, b"jobs");
        let mut line = Vec::new();
        assert!(!extend_line(&mut line, &[b'x'; LINE_LEN_MAX - 1]) && extend_line(&mut line, b"x"));
    }
}
