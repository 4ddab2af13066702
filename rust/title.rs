//! PURE. What a title may say, an operator's own pattern that reads it, and what the readers of the known programs
//! (`presets.rs`) share.
//!
//! It must never believe a count that cannot be true.

use regex::bytes::Regex;

/// Digits of the largest valid count. Six digits are far above any real thread count, and sums over all pids stay
/// within 64 bits.
const COUNT_DIGITS_MAX: usize = 6;

/// What one title says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// A worker of the program, with `busy` of its `total` threads at a job.
    Worker {
        /// Threads with a job.
        busy: u32,
        /// All threads that could have one.
        total: u32,
        /// It takes no more jobs: quieted, or about to end.
        stopping: bool,
    },
    /// The title names the program, but shows no valid count.
    Unparsable,
    /// Not a worker of this program.
    No,
}

impl Reading {
    /// A process that does one job at a time, and waits for the next.
    pub const IDLE: Self = Self::Worker { busy: 0, total: 1, stopping: false };
    /// A process that does one job at a time, and has one.
    pub const BUSY: Self = Self::Worker { busy: 1, total: 1, stopping: false };

    /// Whether it says that there is a job.
    #[must_use]
    pub fn has_a_job(&self) -> bool {
        matches!(self, Self::Worker { busy: 1.., .. })
    }
}

/// A pattern with the groups `busy` and `total`, or `state`.
#[derive(Debug, Clone)]
pub struct Custom {
    pattern: Regex,
    busy_states: Vec<Vec<u8>>,
}

/// The error without the drawing that shows its position: an error must be one line.
fn last_line(error: &str) -> &str {
    error.lines().last().unwrap_or_default().trim_start_matches("error: ")
}

impl Custom {
    /// Compiles an operator's pattern.
    ///
    /// # Errors
    /// The error: syntax, or groups that are missing or cannot be combined.
    pub fn new(pattern: &str, busy_states: &[String]) -> Result<Self, String> {
        let compiled = regex::bytes::RegexBuilder::new(pattern)
            .unicode(false)
            .size_limit(1 << 20)
            .build()
            .map_err(|e| format!("pattern does not compile: {}", last_line(&e.to_string())))?;
        let has = |group| compiled.capture_names().flatten().any(|name| name == group);
        match (has("busy") && has("total"), has("state")) {
            (true, false) if busy_states.is_empty() => {}
            (true, false) => return Err("busy_states needs a (?P<state>…) group in the pattern".into()),
            (false, true) if busy_states.is_empty() => {
                return Err("a (?P<state>…) group needs busy_states = [\"…\"]".into());
            }
            (false, true) => {}
            _ => {
                return Err("the pattern needs the groups (?P<busy>…) and (?P<total>…), or (?P<state>…) alone".into());
            }
        }
        Ok(Self { pattern: compiled, busy_states: busy_states.iter().map(|s| s.clone().into_bytes()).collect() })
    }

    /// What the pattern finds in a title.
    #[must_use]
    pub fn read(&self, title: &[u8]) -> Reading {
        if title.is_empty() {
            return Reading::No;
        }
        let Some(found) = self.pattern.captures(title) else { return Reading::No };
        if let Some(state) = found.name("state") {
            let busy = self.busy_states.iter().any(|s| s == state.as_bytes());
            return if busy { Reading::BUSY } else { Reading::IDLE };
        }
        let number = |group| found.name(group).and_then(|m| count(m.as_bytes()));
        match (number("busy"), number("total")) {
            (Some(busy), Some(total)) if busy <= total => Reading::Worker { busy, total, stopping: false },
            _ => Reading::Unparsable,
        }
    }
}

/// The bytes up to the first NUL.
#[must_use]
pub fn first_string(cmdline: &[u8]) -> &[u8] {
    cmdline.split(|&b| b == 0).next().unwrap_or(&[])
}

/// One to six digits, or nothing.
pub(crate) fn count(digits: &[u8]) -> Option<u32> {
    let sane = (1..=COUNT_DIGITS_MAX).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    sane.then(|| digits.iter().fold(0, |n, &d| n * 10 + u32::from(d - b'0')))
}

/// Where the last `needle` in `hay` begins.
pub(crate) fn rfind(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).rposition(|w| w == needle)
}

/// The blank-separated words of a text.
pub(crate) fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == b' ').filter(|w| !w.is_empty())
}

/// Splits a text that ends in digits into what precedes them, and their number.
pub(crate) fn split_number(text: &[u8]) -> Option<(&[u8], u32)> {
    let start = text.iter().rposition(|b| !b.is_ascii_digit()).map_or(0, |i| i + 1);
    count(&text[start..]).map(|n| (&text[..start], n))
}

/// How a bracket of counts ends.
pub(crate) const TAIL: &[u8] = b" busy]";

/// `… [N of M busy]REST` -> N, M, REST. The last ` busy]` counts, because a tag may hold a
/// whole bracket of its own.
pub(crate) fn bracket(text: &[u8]) -> Option<(u32, u32, &[u8])> {
    let end = rfind(text, TAIL)?;
    let (before, total) = split_number(&text[..end])?;
    let (before, busy) = split_number(before.strip_suffix(b" of ")?)?;
    (before.ends_with(b"[") && busy <= total).then(|| (busy, total, &text[end + TAIL.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(busy: u32, total: u32, stopping: bool) -> Reading {
        Reading::Worker { busy, total, stopping }
    }

    #[test]
    fn a_custom_pattern_reads_numbers_or_states() {
        let counts = Custom::new(r"^myworker \S+ \[(?P<busy>\d+)/(?P<total>\d+)\]", &[]).unwrap();
        assert_eq!(counts.read(b"myworker a [2/4]"), worker(2, 4, false));
        assert_eq!(counts.read(b"myworker a [5/4]"), Reading::Unparsable);
        assert_eq!(counts.read(b"other"), Reading::No);
        let states = Custom::new(r"^job: (?P<state>\w+)", &["run".into()]).unwrap();
        assert_eq!(states.read(b"job: run 12"), Reading::BUSY);
        assert_eq!(states.read(b"job: wait"), Reading::IDLE);
        assert_eq!(states.read(b""), Reading::No);
    }

    #[test]
    fn a_custom_pattern_without_meaning_is_refused() {
        for (pattern, states) in [("(", vec![]), ("^x", vec![]), ("(?P<busy>.)", vec![]), ("(?P<state>.)", vec![])] {
            let fault = Custom::new(pattern, &states).unwrap_err();
            assert!(!fault.contains('\n'), "{fault}");
        }
        assert!(Custom::new("(?P<busy>.)(?P<total>.)", &["x".into()]).is_err());
    }
}
