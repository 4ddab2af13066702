//! PURE. The known programs: how each writes its titles, and the names of its processes.
//!
//! One entry of [`PRESETS`] is all that there is to a program: the configuration's names, doctor and the tests go
//! by that table. A program belongs here only if its title shows whether it is busy. Those whose titles do not are
//! refused by the configuration, with the name of their own status interface.
//!
//! A reader must never guess: a title that names its program but shows no count is [`Reading::Unparsable`], and
//! anything else is [`Reading::No`].

use crate::title::{Reading, TAIL, bracket, count, rfind, split_number, words};

/// One known program.
#[derive(Debug)]
pub struct Preset {
    /// What the configuration calls it.
    pub name: &'static str,
    /// Globs for the names of its processes.
    pub comm: &'static [&'static str],
    /// Whether it writes its title at a heartbeat, rather than at each job.
    pub has_a_heartbeat: bool,
    /// What one title says.
    pub read: fn(&[u8]) -> Reading,
}

/// A process that runs `ActiveJob`s has the name of a Ruby, or of the script if its shebang names Ruby directly.
const JOBS: &[&str] =
    &["ruby*", "bundle*", "rails*", "rake*", "puma*", "jobs", "good_job*", "solid_queue*", "delayed_job*"];

/// All of them, in the order in which they are shown.
pub const PRESETS: &[Preset] = &[
    // Sidekiq's and Faktory's names depend on how they were started: by their own
    // shebang, by env, through bundler, or as children of a swarm, which keep its name.
    Preset { name: "sidekiq", comm: &["sidekiq*", "ruby*", "bundle*"], has_a_heartbeat: true, read: sidekiq },
    Preset { name: "faktory", comm: &["faktory*", "ruby*", "bundle*"], has_a_heartbeat: true, read: faktory },
    Preset {
        name: "resque",
        comm: &["resque*", "ruby*", "rake*", "bundle*", "pyres*", "python*", "php*"],
        has_a_heartbeat: false,
        read: resque,
    },
    // Python's setproctitle changes the name too, to the first bytes of the title.
    Preset { name: "rq", comm: &["rq*", "python*"], has_a_heartbeat: false, read: rq },
    Preset { name: "postgres", comm: &["postgres*"], has_a_heartbeat: false, read: postgres },
    Preset { name: "busyweight", comm: JOBS, has_a_heartbeat: false, read: busyweight },
];

/// The program that the configuration calls so.
#[must_use]
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// The words after a bracket, each with a blank before it.
fn words_after(bracket: &[u8]) -> impl Iterator<Item = &[u8]> {
    words(bracket.iter().position(|&b| b == b' ').map_or(&[], |blank| &bracket[blank..]))
}

/// `PROGRAM DIGIT…` -> the text after the program's name.
fn versioned<'a>(title: &'a [u8], program: &[u8]) -> Option<&'a [u8]> {
    title.strip_prefix(program).filter(|rest| rest.first().is_some_and(u8::is_ascii_digit))
}

/// What follows the first of these bytes.
fn after(text: &[u8], byte: u8) -> Option<&[u8]> {
    text.iter().position(|&b| b == byte).map(|at| &text[at + 1..])
}

/// `sidekiq VERSION TAG [N of M busy][ stopping][ anything]` (lib/sidekiq/launcher.rb).
fn sidekiq(title: &[u8]) -> Reading {
    let Some(rest) = versioned(title, b"sidekiq ") else { return Reading::No };
    // Sidekiq writes its own word first; what follows it is the application's.
    bracket(rest).map_or(Reading::Unparsable, |(busy, total, rest)| Reading::Worker {
        busy,
        total,
        stopping: rest.starts_with(b" ") && words(rest).next() == Some(b"stopping"),
    })
}

/// `faktory-worker VERSION TAG [N of M busy] [stopping] [quiet]` (lib/faktory/launcher.rb).
fn faktory(title: &[u8]) -> Reading {
    let Some(rest) = versioned(title, b"faktory-worker ") else { return Reading::No };
    bracket(rest).map_or(Reading::Unparsable, |(busy, total, rest)| Reading::Worker {
        busy,
        total,
        stopping: words_after(rest).any(|w| w == b"stopping" || w == b"quiet"),
    })
}

/// `[PREFIX]resque-VERSION: STATE …` (lib/resque/worker.rb, `procline`).
///
/// The operator may set a prefix (`RESQUE_PROCLINE_PREFIX`), so the program's name may stand
/// anywhere; the version's digit tells it from `resque-scheduler`, which does no jobs.
///
/// Its relatives write the same states: resqued puts a `[tag]` before them, php-resque and pyres
/// their queues after the version, ` (q1,q2)` or ` [q1,q2]`. Older ones begin as `resque: Starting`.
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
    match title.strip_prefix(b"resque: ").map(|state| words(state).next()) {
        Some(Some(b"Starting")) => Reading::IDLE,
        Some(_) => Reading::Unparsable,
        None => Reading::No,
    }
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

/// `rq:worker:NAME: STATE …` (rq/worker/, `procline`), in older ones `rq: STATE …`; newer ones may spawn
/// instead of fork.
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

/// `postgres: [CLUSTER: ]USER DB HOST ACTIVITY` (`backend_status.c`, `ps_status.c`).
///
/// A backend shows where its client is: `[local]` or `ADDRESS(PORT)`. The server's own
/// processes (checkpointer, autovacuum, parallel workers) do not, and serve nobody directly;
/// a walsender does (`wal sender process` before version 10), and serves no query.
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
        _ if all[0] == b"walsender" || all.starts_with(&[b"wal", b"sender", b"process"]) => Reading::No,
        None => Reading::Unparsable,
        Some(&b"idle") => Reading::IDLE,
        Some(_) => Reading::BUSY,
    }
}

/// `ANYTHING | busyweight [N of M busy][anything]` (`contrib/active_job_live_title.rb`).
///
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
    use crate::title::first_string;

    const fn worker(busy: u32, total: u32, stopping: bool) -> Reading {
        Reading::Worker { busy, total, stopping }
    }

    const IDLE: Reading = Reading::IDLE;
    const BUSY: Reading = Reading::BUSY;
    const NO: Reading = Reading::No;
    const UNPARSABLE: Reading = Reading::Unparsable;

    /// Titles as `cmdline` has them, and what each says. `tests/scan/titles.tsv` has more of the real ones.
    const TITLES: &[(&str, &[u8], Reading)] = &[
        // The last bracket counts, whatever the tag holds.
        ("sidekiq", b"sidekiq 6.4.1 my tag [x 9 of 9 busy] y [3 of 5 busy] stopping\0\0", worker(3, 5, true)),
        ("sidekiq", b"sidekiq 7.0.0 [9 of 9 busy]] [0 of 5 busy]", worker(0, 5, false)),
        // A count that cannot be true is none.
        ("sidekiq", b"sidekiq 7.0.0 x [6 of 5 busy]", UNPARSABLE),
        ("sidekiq", b"sidekiq 7.0.0 x [1234567 of 5 busy]", UNPARSABLE),
        ("sidekiq", b"sidekiq 7.0.0 x [-1 of 5 busy]", UNPARSABLE),
        ("sidekiq", b"sidekiq 7.0.0 x [ of 5 busy]", UNPARSABLE),
        ("sidekiq", b"sidekiq 7.0.0 x 1 of 5 busy]", UNPARSABLE),
        ("sidekiq", b"sidekiq 7.0.0 x [1 of 5 busy", UNPARSABLE),
        ("sidekiq", b"sidekiq 7 [1 of 5 busy] [x busy]", UNPARSABLE),
        // Only Sidekiq's own word means that it is stopping.
        ("sidekiq", b"sidekiq 7.0.0 stopping [1 of 5 busy]", worker(1, 5, false)),
        ("sidekiq", b"sidekiq 7.0.0 [1 of 5 busy] not stopping", worker(1, 5, false)),
        ("sidekiq", b"sidekiq 7.0.0 [1 of 5 busy]stopping", worker(1, 5, false)),
        ("sidekiq", b"sidekiq 7.0.0 [1 of 5 busy] stopping leader", worker(1, 5, true)),
        ("faktory", b"faktory-worker 1.1.1 [1 of 5 busy]stopping", worker(1, 5, false)),
        ("faktory", b"faktory-worker 1.1.1 [0 of 5 busy] quiet", worker(0, 5, true)),
        ("faktory", b"faktory-worker 1.1.1 app", UNPARSABLE),
        // It is found behind a prefix, and its scheduler is no worker.
        ("resque", b"shop resque-2.6.0: Forked 12 at 1700000000", BUSY),
        ("resque", b"resque-2.6.0: Paused", IDLE),
        ("resque", b"resque-2.6.0: Dreaming", UNPARSABLE),
        ("resque", b"resque-scheduler-4.0: Processing Delayed Items", NO),
        ("resque", b"resque-", NO),
        // The first title of an old one has no version.
        ("resque", b"resque: Starting\0", IDLE),
        ("resque", b"resque: Dreaming", UNPARSABLE),
        ("resque", b"my resque: Starting", NO),
        ("resque", b"resque: resque-2.6.0: Forked 12 at 1700000000", BUSY),
        // The state is read behind any name.
        ("rq", b"rq:worker:a: b: Listening on default", IDLE),
        ("rq", b"rq:worker:a: Processing f from q since 1", BUSY),
        ("rq", b"rq:worker:a: Spawned 12 at 1.5", BUSY),
        ("rq", b"rq:worker:a", UNPARSABLE),
        ("rq", b"rq: Listening on default", IDLE),
        ("rq", b"rq: Forked 12 at 1.5", BUSY),
        ("rq", b"rq: Having lunch", UNPARSABLE),
        ("rq", b"rq:Listening on default", NO),
        ("rq", b"rq worker default", NO),
        // Backends count, and the server's own processes do not.
        ("postgres", b"postgres: app shop 10.0.0.5(51234) idle in transaction", IDLE),
        ("postgres", b"postgres: 15/main: app shop [local] INSERT waiting", BUSY),
        ("postgres", b"postgres: app shop [local]", UNPARSABLE),
        ("postgres", b"postgres: walsender app 10.0.0.5(51234) streaming 0/1", NO),
        ("postgres", b"postgres: 9.6/main: wal sender process app 10.0.0.5(51234) streaming 0/1", NO),
        ("postgres", b"postgres: wal sender [local] SELECT", BUSY),
        ("postgres", b"postgres: 15/main: parallel worker for PID 12", NO),
        ("postgres", b"postgres: autovacuum worker shop", NO),
        ("postgres", b"postgres: ", NO),
        // Our own words are read behind any title, the last ones alone.
        ("busyweight", b"puma 6.4.2 (tcp://0.0.0.0:3000) [shop] | busyweight [2 of 5 busy]\0\0", worker(2, 5, false)),
        ("busyweight", b"a | busyweight [1 of 1 busy] | busyweight [0 of 3 busy] [9 of 9 busy]", worker(0, 3, false)),
        ("busyweight", b"a | busyweight [1 of 1 busy] | busyweight [", UNPARSABLE),
        ("busyweight", b"a | busyweight [1 of 1 busy] | busyweight [2", UNPARSABLE),
        ("busyweight", b"a | busyweight [1 of 1 busy] | busyweight [2 of 5 busy", UNPARSABLE),
        ("busyweight", b"a | busyweight [1 of 1 busy] | busyweight [6 of 5 busy]", UNPARSABLE),
        ("busyweight", b"a | busyweight [1 of 1 busy] | busyweight [x [1 of 5 busy]", UNPARSABLE),
        ("busyweight", b"a | busyweight [1 of 1 busy] | busyweight [1 [1 of 5 busy]", UNPARSABLE),
        ("busyweight", b"a | busyweight [1 of 1 busy] | busyweight [] [1 of 5 busy]", UNPARSABLE),
        ("busyweight", b"puma [1 of 5 busy]", NO),
        ("busyweight", b"a busyweight [1 of 5 busy]", NO),
        ("busyweight", b"a | busyweight", NO),
        ("busyweight", b"x\0 | busyweight [1 of 5 busy]", NO),
        ("busyweight", b"", NO),
    ];

    #[test]
    fn every_title_is_read_as_the_table_says_and_by_no_other_preset() {
        for &(name, cmdline, expected) in TITLES {
            for preset in PRESETS {
                let expected = if preset.name == name { expected } else { NO };
                assert_eq!(
                    (preset.read)(first_string(cmdline)),
                    expected,
                    "{}: {}",
                    preset.name,
                    cmdline.escape_ascii()
                );
            }
        }
    }

    #[test]
    fn every_preset_has_titles_with_a_job_without_one_and_without_a_count() {
        for preset in PRESETS {
            let says =
                |wanted: fn(&Reading) -> bool| TITLES.iter().any(|(name, _, r)| *name == preset.name && wanted(r));
            assert!(says(Reading::has_a_job), "{}", preset.name);
            assert!(says(|r| matches!(r, Reading::Worker { busy: 0, .. })), "{}", preset.name);
            assert!(says(|r| matches!(r, Reading::Unparsable)), "{}", preset.name);
        }
    }
}
