//! PURE. One title's bytes -> what that worker reports.
//!
//! This is the only place that interprets titles. It gets the bytes that the kernel returned for `cmdline`, and it
//! must never guess: a title that names a known program but shows no count is [`Reading::Unparsable`], and anything
//! else is [`Reading::No`].

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
    /// A process that does one job at a time, waiting for it.
    pub const IDLE: Self = Self::Worker { busy: 0, total: 1, stopping: false };
    /// A process that does one job at a time, doing it.
    pub const BUSY: Self = Self::Worker { busy: 1, total: 1, stopping: false };

    /// Whether it says that there is a job.
    #[must_use]
    pub fn has_a_job(&self) -> bool {
        matches!(self, Self::Worker { busy: 1.., .. })
    }
}

/// How a program writes its titles.
#[derive(Debug, Clone)]
pub enum Grammar {
    /// `sidekiq VERSION TAG [N of M busy][ stopping][ anything]` (lib/sidekiq/launcher.rb).
    Sidekiq,
    /// `faktory-worker VERSION TAG [N of M busy] [stopping] [quiet]` (lib/faktory/launcher.rb).
    Faktory,
    /// `[PREFIX]resque-VERSION: STATE …` (lib/resque/worker.rb, `procline`).
    Resque,
    /// `rq:worker:NAME: STATE …` (rq/worker/, `procline`), in older ones `rq: STATE …`; newer ones may spawn
    /// instead of fork.
    Rq,
    /// `postgres: [CLUSTER: ]USER DB HOST ACTIVITY` (`backend_status.c`, `ps_status.c`).
    Postgres,
    /// `ANYTHING | busyweight [N of M busy][anything]` (`contrib/active_job_live_title.rb`).
    Busyweight,
    /// A pattern of the operator's own.
    Custom(Box<Custom>),
}

/// A pattern with the groups `busy` and `total`, or `state`.
#[derive(Debug, Clone)]
pub struct Custom {
    pattern: Regex,
    busy_states: Vec<Vec<u8>>,
}

/// The error without the drawing that shows its position; an error is one line.
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

    fn read(&self, title: &[u8]) -> Reading {
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

impl Grammar {
    /// Whether the program writes its title now and then, and not at each job.
    #[must_use]
    pub fn has_a_heartbeat(&self) -> bool {
        matches!(self, Self::Sidekiq | Self::Faktory)
    }

    /// Reads what `cmdline` returned. Only the bytes up to the first NUL are a title: what
    /// follows is padding, or the rest of an argument vector that was never retitled.
    #[must_use]
    pub fn read(&self, cmdline: &[u8]) -> Reading {
        let title = first_string(cmdline);
        match self {
            Self::Sidekiq => sidekiq(title),
            Self::Faktory => faktory(title),
            Self::Resque => resque(title),
            Self::Rq => rq(title),
            Self::Postgres => postgres(title),
            Self::Busyweight => busyweight(title),
            Self::Custom(custom) if !title.is_empty() => custom.read(title),
            Self::Custom(_) => Reading::No,
        }
    }
}

/// The bytes up to the first NUL.
#[must_use]
pub fn first_string(cmdline: &[u8]) -> &[u8] {
    cmdline.split(|&b| b == 0).next().unwrap_or(&[])
}

/// One to six digits, or nothing.
fn count(digits: &[u8]) -> Option<u32> {
    let sane = (1..=COUNT_DIGITS_MAX).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    sane.then(|| digits.iter().fold(0, |n, &d| n * 10 + u32::from(d - b'0')))
}

/// Where `needle` begins in `hay` for the last time.
fn rfind(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).rposition(|w| w == needle)
}

/// The words after a bracket, each with a blank before it.
fn words_after(bracket: &[u8]) -> impl Iterator<Item = &[u8]> {
    words(bracket.iter().position(|&b| b == b' ').map_or(&[], |blank| &bracket[blank..]))
}

/// The blank-separated words of a text.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == b' ').filter(|w| !w.is_empty())
}

/// The number, and what stands before it, of a text that ends in digits.
fn split_number(text: &[u8]) -> Option<(&[u8], u32)> {
    let start = text.iter().rposition(|b| !b.is_ascii_digit()).map_or(0, |i| i + 1);
    count(&text[start..]).map(|n| (&text[..start], n))
}

/// How a bracket of counts ends.
const TAIL: &[u8] = b" busy]";

/// `… [N of M busy]REST` -> N, M, REST. The last ` busy]` counts, because a tag may hold a
/// whole bracket of its own.
fn bracket(text: &[u8]) -> Option<(u32, u32, &[u8])> {
    let end = rfind(text, TAIL)?;
    let (before, total) = split_number(&text[..end])?;
    let (before, busy) = split_number(before.strip_suffix(b" of ")?)?;
    (before.ends_with(b"[") && busy <= total).then(|| (busy, total, &text[end + TAIL.len()..]))
}

/// `PROGRAM DIGIT…` -> the text after the program's name.
fn versioned<'a>(title: &'a [u8], program: &[u8]) -> Option<&'a [u8]> {
    title.strip_prefix(program).filter(|rest| rest.first().is_some_and(u8::is_ascii_digit))
}

fn sidekiq(title: &[u8]) -> Reading {
    let Some(rest) = versioned(title, b"sidekiq ") else { return Reading::No };
    // Sidekiq writes its own word first; what follows it is the application's.
    bracket(rest).map_or(Reading::Unparsable, |(busy, total, rest)| Reading::Worker {
        busy,
        total,
        stopping: rest.starts_with(b" ") && words(rest).next() == Some(b"stopping"),
    })
}

fn faktory(title: &[u8]) -> Reading {
    let Some(rest) = versioned(title, b"faktory-worker ") else { return Reading::No };
    bracket(rest).map_or(Reading::Unparsable, |(busy, total, rest)| Reading::Worker {
        busy,
        total,
        stopping: words_after(rest).any(|w| w == b"stopping" || w == b"quiet"),
    })
}

/// The operator may set a prefix (`RESQUE_PROCLINE_PREFIX`), so the program's name may stand
/// anywhere; the version's digit tells it from `resque-scheduler`, which does no jobs.
///
/// Its relatives write the same states: resqued puts a `[tag]` before them, php-resque and pyres
/// their queues after the version, ` (q1,q2)` or ` [q1,q2]`.
fn resque(title: &[u8]) -> Reading {
    const NAMES: [&[u8]; 2] = [b"resque-", b"pyres_worker-"];
    for at in 0..title.len() {
        let named = NAMES.iter().find_map(|name| title[at..].strip_prefix(*name));
        if let Some(state) = named.and_then(resque_state) {
            return match words(state).next() {
                Some(b"Waiting" | b"Paused" | b"Starting") => Reading::IDLE,
                Some(b"Processing" | b"Forked") => Reading::BUSY,
                _ => Reading::Unparsable,
            };
        }
    }
    Reading::No
}

/// `VERSION[ (QUEUES)][ [QUEUES]]: [[TAG]]STATE` -> STATE.
fn resque_state(text: &[u8]) -> Option<&[u8]> {
    let version_len = text.iter().take_while(|b| !b": ".contains(b)).count();
    if !text.first()?.is_ascii_digit() {
        return None;
    }
    let mut rest = &text[version_len..];
    for (open, close) in [(&b" ("[..], b')'), (b" [", b']')] {
        rest = rest.strip_prefix(open).and_then(|inner| after(inner, close)).unwrap_or(rest);
    }
    let state = rest.strip_prefix(b": ")?;
    let state = &state[state.iter().take_while(|&&b| b == b' ').count()..];
    Some(state.strip_prefix(b"[").and_then(|tag| after(tag, b']')).unwrap_or(state))
}

/// What follows the first of these bytes.
fn after(text: &[u8], byte: u8) -> Option<&[u8]> {
    text.iter().position(|&b| b == byte).map(|at| &text[at + 1..])
}

fn rq(title: &[u8]) -> Reading {
    let nameless = || title.strip_prefix(b"rq").filter(|rest| rest.starts_with(b": "));
    let Some(rest) = title.strip_prefix(b"rq:worker:").or_else(nameless) else { return Reading::No };
    // A worker's name may hold anything, so the first known state after a `: ` decides.
    for at in rest.windows(2).enumerate().filter(|(_, w)| *w == b": ").map(|(i, _)| i + 2) {
        match words(&rest[at..]).next() {
            Some(b"Listening" | b"Started" | b"Suspended" | b"Cleaning" | b"Idle") => return Reading::IDLE,
            Some(b"Processing" | b"Forked" | b"Spawned") => return Reading::BUSY,
            _ => {}
        }
    }
    Reading::Unparsable
}

/// A backend shows where its client is: `[local]` or `ADDRESS(PORT)`. The server's own
/// processes (checkpointer, autovacuum, parallel workers) do not, and serve nobody directly;
/// a walsender does, and serves no query.
fn postgres(title: &[u8]) -> Reading {
    let Some(rest) = title.strip_prefix(b"postgres: ") else { return Reading::No };
    let rest = match rest.windows(2).position(|w| w == b": ") {
        Some(end) => &rest[end + 2..],
        None => rest,
    };
    let all: Vec<&[u8]> = words(rest).collect();
    let is_host =
        |w: &[u8]| w == b"[local]" || (w.ends_with(b")") && w.iter().position(|&b| b == b'(').is_some_and(|i| i > 0));
    let Some(host) = all.iter().skip(2).position(|w| is_host(w)).map(|i| i + 2) else { return Reading::No };
    match all.get(host + 1) {
        _ if all[0] == b"walsender" => Reading::No,
        None => Reading::Unparsable,
        Some(&b"idle") => Reading::IDLE,
        Some(_) => Reading::BUSY,
    }
}

/// Our own suffix to any program's title. The last one counts, because it is appended.
fn busyweight(title: &[u8]) -> Reading {
    const WORDS: &[u8] = b" | busyweight [";
    let Some(at) = rfind(title, WORDS) else { return Reading::No };
    let counts = || {
        let counts = &title[at + WORDS.len()..];
        let end = counts.windows(TAIL.len()).position(|w| w == TAIL)?;
        let (before, total) = split_number(&counts[..end])?;
        let busy = count(before.strip_suffix(b" of ")?)?;
        (busy <= total).then_some(Reading::Worker { busy, total, stopping: false })
    };
    counts().unwrap_or(Reading::Unparsable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(busy: u32, total: u32, stopping: bool) -> Reading {
        Reading::Worker { busy, total, stopping }
    }

    #[test]
    fn the_last_bracket_counts_whatever_the_tag_holds() {
        let title = b"sidekiq 6.4.1 my tag [x 9 of 9 busy] y [3 of 5 busy] stopping\0\0";
        assert_eq!(Grammar::Sidekiq.read(title), worker(3, 5, true));
        assert_eq!(Grammar::Sidekiq.read(b"sidekiq 7.0.0 [9 of 9 busy]] [0 of 5 busy]"), worker(0, 5, false));
    }

    #[test]
    fn a_count_that_cannot_be_true_is_unparsable() {
        for title in [
            &b"sidekiq 7.0.0 x [6 of 5 busy]"[..],
            b"sidekiq 7.0.0 x [1234567 of 5 busy]",
            b"sidekiq 7.0.0 x [-1 of 5 busy]",
            b"sidekiq 7.0.0 x [ of 5 busy]",
            b"sidekiq 7.0.0 x 1 of 5 busy]",
            b"sidekiq 7.0.0 x [1 of 5 busy",
            b"sidekiq 7 [1 of 5 busy] [x busy]",
        ] {
            assert_eq!(Grammar::Sidekiq.read(title), Reading::Unparsable, "{}", title.escape_ascii());
        }
    }

    #[test]
    fn only_sidekiqs_own_word_means_stopping() {
        assert_eq!(Grammar::Sidekiq.read(b"sidekiq 7.0.0 stopping [1 of 5 busy]"), worker(1, 5, false));
        assert_eq!(Grammar::Sidekiq.read(b"sidekiq 7.0.0 [1 of 5 busy] not stopping"), worker(1, 5, false));
        assert_eq!(Grammar::Sidekiq.read(b"sidekiq 7.0.0 [1 of 5 busy]stopping"), worker(1, 5, false));
        assert_eq!(Grammar::Faktory.read(b"faktory-worker 1.1.1 [1 of 5 busy]stopping"), worker(1, 5, false));
        assert_eq!(Grammar::Sidekiq.read(b"sidekiq 7.0.0 [1 of 5 busy] stopping leader"), worker(1, 5, true));
    }

    #[test]
    fn resque_is_found_behind_a_prefix_and_its_scheduler_is_not_a_worker() {
        assert_eq!(Grammar::Resque.read(b"shop resque-2.6.0: Forked 12 at 1700000000"), Reading::BUSY);
        assert_eq!(Grammar::Resque.read(b"resque-2.6.0: Paused"), Reading::IDLE);
        assert_eq!(Grammar::Resque.read(b"resque-2.6.0: Dreaming"), Reading::Unparsable);
        assert_eq!(Grammar::Resque.read(b"resque-scheduler-4.0: Processing Delayed Items"), Reading::No);
        assert_eq!(Grammar::Resque.read(b"resque-"), Reading::No);
    }

    #[test]
    fn rq_states_are_read_behind_any_name() {
        assert_eq!(Grammar::Rq.read(b"rq:worker:a: b: Listening on default"), Reading::IDLE);
        assert_eq!(Grammar::Rq.read(b"rq:worker:a: Processing f from q since 1"), Reading::BUSY);
        assert_eq!(Grammar::Rq.read(b"rq:worker:a: Spawned 12 at 1.5"), Reading::BUSY);
        assert_eq!(Grammar::Rq.read(b"rq:worker:a"), Reading::Unparsable);
        assert_eq!(Grammar::Rq.read(b"rq: Listening on default"), Reading::IDLE);
        assert_eq!(Grammar::Rq.read(b"rq: Forked 12 at 1.5"), Reading::BUSY);
        assert_eq!(Grammar::Rq.read(b"rq: Having lunch"), Reading::Unparsable);
        assert_eq!(Grammar::Rq.read(b"rq:Listening on default"), Reading::No);
        assert_eq!(Grammar::Rq.read(b"rq worker default"), Reading::No);
    }

    #[test]
    fn postgres_counts_backends_and_not_the_servers_own_processes() {
        let read = |t: &str| Grammar::Postgres.read(t.as_bytes());
        assert_eq!(read("postgres: app shop 10.0.0.5(51234) idle in transaction"), Reading::IDLE);
        assert_eq!(read("postgres: 15/main: app shop [local] INSERT waiting"), Reading::BUSY);
        assert_eq!(read("postgres: app shop [local]"), Reading::Unparsable);
        assert_eq!(read("postgres: walsender app 10.0.0.5(51234) streaming 0/1"), Reading::No);
        assert_eq!(read("postgres: 15/main: parallel worker for PID 12"), Reading::No);
        assert_eq!(read("postgres: autovacuum worker shop"), Reading::No);
        assert_eq!(read("postgres: "), Reading::No);
    }

    #[test]
    fn busyweights_own_words_are_read_behind_any_title() {
        let read = |t: &str| Grammar::Busyweight.read(t.as_bytes());
        assert_eq!(read("puma 6.4.2 (tcp://0.0.0.0:3000) [shop] | busyweight [2 of 5 busy]\0\0"), worker(2, 5, false));
        assert_eq!(read("a | busyweight [1 of 1 busy] | busyweight [0 of 3 busy] [9 of 9 busy]"), worker(0, 3, false));
        for cut in
            ["[", "[2", "[2 of 5 busy", "[6 of 5 busy]", "[x [1 of 5 busy]", "[1 [1 of 5 busy]", "[] [1 of 5 busy]"]
        {
            assert_eq!(read(&format!("a | busyweight [1 of 1 busy] | busyweight {cut}")), Reading::Unparsable, "{cut}");
        }
        for other in
            ["puma [1 of 5 busy]", "a busyweight [1 of 5 busy]", "a | busyweight", "x\0 | busyweight [1 of 5 busy]", ""]
        {
            assert_eq!(read(other), Reading::No, "{other}");
        }
    }

    #[test]
    fn a_custom_pattern_reads_numbers_or_states() {
        let counts = Custom::new(r"^myworker \S+ \[(?P<busy>\d+)/(?P<total>\d+)\]", &[]).unwrap();
        let counts = Grammar::Custom(Box::new(counts));
        assert_eq!(counts.read(b"myworker a [2/4]\0tail"), worker(2, 4, false));
        assert_eq!(counts.read(b"myworker a [5/4]"), Reading::Unparsable);
        assert_eq!(counts.read(b"other"), Reading::No);
        let states = Custom::new(r"^job: (?P<state>\w+)", &["run".into()]).unwrap();
        let states = Grammar::Custom(Box::new(states));
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
