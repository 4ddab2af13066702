//! Titles put together at random are read as plain twins read them, which are made of regular
//! expressions and share no code with the reader.
//!
//! A hundred thousand by default; the environment's `TITLES` says how many else.

use _scan::presets::{PRESETS, Preset};
use _scan::title::Reading;
use regex::bytes::Regex;

const NAMES: [&str; 8] =
    ["sidekiq 7.3.0 ", "faktory-worker 1.1.1 ", "resque-2.6.0: ", "resque: ", "rq:worker:", "rq: ", "postgres: ", ""];

const WORDS: [&[u8]; 51] = [
    b"sidekiq ",
    b"faktory-worker ",
    b"resque-",
    b"resque: ",
    b"rq:worker:",
    b"rq: ",
    b"postgres: ",
    b"[local]",
    b"10.0.0.5(51234)",
    b"(x)",
    b"7.3.0",
    b"1",
    b" ",
    b"  ",
    b": ",
    b":",
    b"[",
    b"]",
    b" of ",
    b" busy]",
    b"[3 of 10 busy]",
    b"[0 of 1 busy]",
    b"[999999 of 999999 busy]",
    b"[1000000 of 1 busy]",
    b"[3 of 1 busy]",
    b" stopping",
    b" quiet",
    b"stoppings",
    b"Waiting",
    b"Paused",
    b"Starting",
    b"Processing",
    b"Forked",
    b"Spawned",
    b"Listening",
    b"Idle",
    b"idle",
    b"SELECT",
    b"walsender",
    b"wal sender process ",
    b"wal ",
    b"\0",
    b"\n",
    b"\xff",
    b"shop",
    b"000003",
    b" | busyweight [",
    b" | busyweight [2 of 5 busy]",
    b"\xd9\xa3",
    b"(",
    b")",
];

/// Steele, Lea and Flood's `SplitMix64`: the same titles for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn title(&mut self) -> Vec<u8> {
        let mut title = NAMES[self.below(NAMES.len())].as_bytes().to_vec();
        for _ in 0..self.below(12) {
            match self.below(16) {
                0 => title.push(self.below(256) as u8),
                _ => title.extend_from_slice(WORDS[self.below(WORDS.len())]),
            }
        }
        if self.below(8) == 0 {
            title.truncate(self.below(title.len() + 1));
        }
        title
    }
}

fn regex(pattern: &str) -> Regex {
    Regex::new(&format!("(?s-u){pattern}")).unwrap()
}

struct Twins {
    counted: [Regex; 2],
    last_bracket: Regex,
    sidekiq_stops: Regex,
    faktory_stops: Regex,
    resque: Regex,
    resque_starts: Regex,
    rq: Regex,
    postgres: Regex,
    wal_sender: Regex,
    busyweight: Regex,
    counts: Regex,
}

impl Twins {
    fn new() -> Self {
        Self {
            counted: [regex(r"^sidekiq \d"), regex(r"^faktory-worker \d")],
            last_bracket: regex(r"^.*\[(\d{1,6}) of (\d{1,6}) busy\](.*)$"),
            sidekiq_stops: regex(r"^ +stopping( |$)"),
            faktory_stops: regex(r" (stopping|quiet)( |$)"),
            resque: regex(
                r"(?:resque|pyres_worker)-\d[^: ]*(?: \([^)]*\))?(?: \[[^\]]*\])?: +(?:\[[^\]]*\] *)?([^ ]*)",
            ),
            resque_starts: regex(r"^resque: +Starting( |$)"),
            rq: regex(
                r"^rq(?::worker:.*?|(?:: .*?)??): +(?:(Listening|Started|Suspended|Cleaning|Idle)|Processing|Forked|Spawned)( |$)",
            ),
            postgres: regex(
                r"^postgres: +(?:[^ ]+ +){2,}?(?:\[local\]|[^ (][^ ]*\([^ ]*\)|[^ (]\([^ ]*\))(?: +([^ ]+).*| *)$",
            ),
            wal_sender: regex(r"^postgres: +(walsender|wal +sender +process) "),
            busyweight: regex(r"^.* \| busyweight \[(.*)$"),
            counts: regex(r"^(\d{1,6}) of (\d{1,6}) busy\]"),
        }
    }

    /// What the preset's twin reads; None where it has no twin.
    fn read(&self, preset: &Preset, title: &[u8]) -> Option<Reading> {
        Some(match preset.name {
            "sidekiq" => self.bracket(0, title),
            "faktory" => self.bracket(1, title),
            "resque" => self.resque(title),
            "rq" => self.rq(title),
            "postgres" => self.postgres(title),
            "busyweight" => self.busyweight(title),
            _ => return None,
        })
    }

    fn bracket(&self, which: usize, title: &[u8]) -> Reading {
        if !self.counted[which].is_match(title) {
            return Reading::No;
        }
        let Some(found) = self.last_bracket.captures(title) else { return Reading::Unparsable };
        let number = |i: usize| std::str::from_utf8(&found[i]).unwrap().parse::<u32>().unwrap();
        let (busy, total, rest) = (number(1), number(2), &found[3]);
        if busy > total || rest.windows(6).any(|w| w == b" busy]") {
            return Reading::Unparsable;
        }
        let stops = [&self.sidekiq_stops, &self.faktory_stops][which];
        Reading::Worker { busy, total, stopping: stops.is_match(rest) }
    }

    fn busyweight(&self, title: &[u8]) -> Reading {
        let Some(found) = self.busyweight.captures(title) else { return Reading::No };
        let Some(counts) = self.counts.captures(&found[1]) else { return Reading::Unparsable };
        let number = |i: usize| std::str::from_utf8(&counts[i]).unwrap().parse::<u32>().unwrap();
        match (number(1), number(2)) {
            (busy, total) if busy <= total => Reading::Worker { busy, total, stopping: false },
            _ => Reading::Unparsable,
        }
    }

    fn resque(&self, title: &[u8]) -> Reading {
        match self.resque.captures(title).as_ref().map(|found| &found[1]) {
            Some(b"Waiting" | b"Paused" | b"Starting") => Reading::IDLE,
            Some(b"Processing" | b"Forked") => Reading::BUSY,
            Some(_) => Reading::Unparsable,
            None if self.resque_starts.is_match(title) => Reading::IDLE,
            None if title.starts_with(b"resque: ") => Reading::Unparsable,
            None => Reading::No,
        }
    }

    fn rq(&self, title: &[u8]) -> Reading {
        match self.rq.captures(title) {
            Some(found) if found.get(1).is_some() => Reading::IDLE,
            Some(_) => Reading::BUSY,
            None if title.starts_with(b"rq:worker:") || title.starts_with(b"rq: ") => Reading::Unparsable,
            None => Reading::No,
        }
    }

    fn postgres(&self, title: &[u8]) -> Reading {
        // A cluster's name goes first, up to a colon and a blank.
        let rest = title.strip_prefix(b"postgres: ").unwrap_or_default();
        let rest = rest.windows(2).position(|w| w == b": ").map_or(rest, |at| &rest[at + 2..]);
        let plain = [b"postgres: ", rest].concat();
        match self.postgres.captures(&plain) {
            _ if !title.starts_with(b"postgres: ") => Reading::No,
            None => Reading::No,
            Some(_) if self.wal_sender.is_match(&plain) => Reading::No,
            Some(found) => found.get(1).map_or(Reading::Unparsable, |activity| match activity.as_bytes() {
                b"idle" => Reading::IDLE,
                _ => Reading::BUSY,
            }),
        }
    }
}

#[test]
fn every_title_is_read_as_its_plain_twin_reads_it() {
    let count: u64 = std::env::var("TITLES").map_or(100_000, |n| n.parse().unwrap());
    let twins = Twins::new();
    let mut dice = Dice(count);
    let mut workers = 0u64;
    for _ in 0..count {
        let cmdline = dice.title();
        let title = cmdline.split(|&b| b == 0).next().unwrap_or_default();
        for preset in PRESETS {
            let reading = (preset.read)(title);
            if let Some(expected) = twins.read(preset, title) {
                assert_eq!(reading, expected, "{}: {}", preset.name, cmdline.escape_ascii());
                workers += u64::from(matches!(expected, Reading::Worker { .. }));
            }
        }
    }
    assert!(workers > count / 100, "hardly a worker among them: nothing was tried");
    println!("{count} titles, {workers} workers");
}
