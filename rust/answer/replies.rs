//! PURE. The current replies, and which one a line asks for.

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
