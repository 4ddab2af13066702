//! The tracker by a clock of the tests' own, in a tree of plain files.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::rechecks::UNKNOWN_PERIOD_MS;
use super::*;
use crate::procfs::TITLE_LEN_MAX;
use crate::selector::{Selector, Spec};

static TREES: AtomicU32 = AtomicU32::new(0);

const IDLE: &str = "sidekiq 7.3.0 shop [0 of 10 busy]";

/// A tree, and a tracker that reads it.
pub(crate) struct Host {
    root: PathBuf,
    pub(crate) tracker: Tracker,
    /// Which processes the last scan probed, and whether it wanted to know when they started.
    probed: BTreeMap<Pid, bool>,
}

impl Host {
    pub(crate) fn new() -> Self {
        let tree = TREES.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("busyweight-tracker-{}-{tree}", std::process::id()));
        fs::create_dir_all(&root).unwrap();
        add(&root, 1, "systemd", "/sbin/init", 0);
        let sidekiq = Selector::new(&Spec { preset: "sidekiq".into(), ..Spec::default() }).unwrap();
        let context = Context { selectors: vec![sidekiq], detail: false, way: Way::Stat };
        let procfs = Procfs::open(&root).unwrap();
        let sweep = Box::new(Sweep::new(&procfs));
        let tracker = Tracker::new(Arc::new(context), procfs, sweep, 1000);
        Self { root, tracker, probed: BTreeMap::new() }
    }

    /// As on the kernel's own procfs: what is there at the first scan came before.
    fn kernels(mut self) -> Self {
        self.tracker.kernels = true;
        self
    }

    pub(crate) fn add(&self, pid: Pid, comm: &str, title: &str) {
        self.start(pid, comm, title, 0);
    }

    fn start(&self, pid: Pid, comm: &str, title: &str, started_ms: u64) {
        add(&self.root, pid, comm, title, started_ms);
    }

    fn retitle(&self, pid: Pid, title: &str) {
        fs::write(self.root.join(format!("{pid}/cmdline")), title).unwrap();
    }

    fn scan(&mut self, now_ms: u64) -> Snapshot {
        self.probed.clear();
        self.tracker.begin(now_ms * 1_000_000, &|_| false);
        let (files, context, mask) = (self.tracker.files(), self.tracker.context(), AtomicU32::new(0));
        let mut buf = [0; TITLE_LEN_MAX];
        while let Some(task) = self.tracker.next_task() {
            if let Kind::Probe { start } = task.kind {
                self.probed.insert(task.pid, start);
            }
            let (outcome, title) = task.run(&context, &files, &mask, &mut buf);
            self.tracker.take(task, outcome, title, now_ms * 1_000_000);
        }
        self.tracker.finish()
    }

    /// When a process was probed, by scans so far apart.
    fn probes_of(&mut self, pid: Pid, from_ms: u64, to_ms: u64, apart_ms: u64) -> Vec<u64> {
        let mut times = Vec::new();
        for now_ms in (from_ms..to_ms).step_by(apart_ms as usize) {
            self.scan(now_ms);
            if self.probed.contains_key(&pid) {
                times.push(now_ms);
            }
        }
        times
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn add(root: &std::path::Path, pid: Pid, comm: &str, title: &str, started_ms: u64) {
    let home = root.join(pid.to_string());
    fs::create_dir_all(&home).unwrap();
    fs::write(home.join("cmdline"), title).unwrap();
    let ticks = started_ms / 10;
    fs::write(home.join("stat"), format!("{pid} ({comm}) S 1{} {ticks} 0\n", " 0".repeat(17))).unwrap();
    fs::write(home.join("comm"), format!("{comm}\n")).unwrap();
}

fn gaps(times: &[u64]) -> Vec<u64> {
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Far from 0, and no multiple of any period.
const START_MS: u64 = 1_000_123;

#[test]
fn who_came_is_looked_at_once_a_second_for_two_minutes_and_then_every_30_s() {
    for (comm, title) in [("ruby", "ruby"), ("sh", "sh")] {
        let mut host = Host::new();
        host.scan(START_MS);
        host.add(7, comm, title);
        let young = host.probes_of(7, START_MS + 100, START_MS + 120_000, 100);
        assert!(young.len() >= 119 && gaps(&young).iter().all(|&gap| gap == 1_000), "{comm}: {young:?}");
        let old = host.probes_of(7, START_MS + 120_000, START_MS + 300_000, 100);
        // The first may still be the last of the young ones' turns.
        assert!(gaps(&old)[1..].iter().all(|&gap| gap == 30_000) && old.len() >= 6, "{comm}: {old:?}");
    }
}

#[test]
fn polls_more_often_than_once_a_second_reread_no_candidate_more_often() {
    let mut host = Host::new();
    host.add(7, "ruby", "ruby");
    host.scan(START_MS);
    assert_eq!(host.probes_of(7, START_MS + 1, START_MS + 2_000, 1), [START_MS + 1_000]);
}

#[test]
fn old_processes_are_looked_at_evenly_over_30_s_though_all_were_seen_at_once() {
    let mut host = Host::new().kernels();
    let pids = 100..1_100;
    for pid in pids.clone() {
        host.add(pid, "sh", "sh");
    }
    host.scan(START_MS);
    // By then all have shown their age.
    let shown_ms = START_MS + UNKNOWN_PERIOD_MS;
    host.scan(shown_ms);
    let mut seen = BTreeSet::new();
    for second in 1..=30 {
        let snapshot = host.scan(shown_ms + second * 1_000);
        assert!(snapshot.rechecked < 70, "a thirtieth of them is 33, and second {second} had {}", snapshot.rechecked);
        seen.extend(host.probed.keys().copied());
    }
    assert!(pids.clone().all(|pid| seen.contains(&pid)));
}

#[test]
fn what_fell_due_while_nobody_polled_is_done_by_the_first_scan_after_the_silence() {
    let mut host = Host::new().kernels();
    for pid in 100..200 {
        host.add(pid, "sh", "sh");
    }
    host.scan(START_MS);
    host.start(150, "ruby", IDLE, 5_000);
    host.start(151, "ruby", "ruby", 5_000);
    let snapshot = host.scan(START_MS + 3_600_000);
    assert_eq!((snapshot.rechecked, snapshot.pools[0].workers), (101, 1));
    assert!(host.scan(START_MS + 3_600_001).rechecked == 0, "and once is enough");
}

#[test]
fn who_was_there_before_us_is_as_young_as_its_start_tells() {
    let mut host = Host::new().kernels();
    host.start(7, "ruby", "ruby", START_MS - 60_000);
    host.start(8, "ruby", "ruby", START_MS - 600_000);
    host.scan(START_MS);
    let young = host.probes_of(7, START_MS + 100, START_MS + 50_000, 100);
    assert!(young.len() >= 48, "{young:?}");
    let old = host.probes_of(8, START_MS + 50_000, START_MS + 140_000, 100);
    assert_eq!(gaps(&old), [30_000, 30_000]);
}

#[test]
fn who_was_there_before_us_under_another_name_shows_its_age_soon() {
    let mut host = Host::new().kernels();
    host.start(7, "sh", "sh", START_MS - 1_000);
    host.scan(START_MS);
    let young = host.probes_of(7, START_MS + 100, START_MS + 14_000, 100);
    assert!(young[0] <= START_MS + UNKNOWN_PERIOD_MS + 100 && young.len() >= 10, "{young:?}");
}

#[test]
fn a_worker_that_turns_into_something_else_is_young_again() {
    let mut host = Host::new();
    host.add(7, "ruby", IDLE);
    host.scan(START_MS);
    let later_ms = START_MS + 600_000;
    host.scan(later_ms);
    host.retitle(7, "irb");
    assert_eq!(host.scan(later_ms + 100).pools[0].workers, 0);
    let again = host.probes_of(7, later_ms + 200, later_ms + 10_000, 100);
    assert!(again.len() >= 9, "{again:?}");
}

#[test]
fn a_pid_that_was_reused_while_no_listing_told_is_young_again() {
    let mut host = Host::new().kernels();
    host.start(7, "ruby", "ruby", START_MS - 600_000);
    host.scan(START_MS);
    host.start(7, "ruby", "irb", START_MS + 10_000);
    host.scan(START_MS + 40_000);
    let again = host.probes_of(7, START_MS + 41_100, START_MS + 50_000, 100);
    assert!(again.len() >= 8, "{again:?}");
}

#[test]
fn a_worker_is_read_in_every_scan_and_probed_in_none() {
    let mut host = Host::new();
    host.add(7, "ruby", IDLE);
    host.scan(START_MS);
    for now_ms in (START_MS + 100..START_MS + 5_000).step_by(100) {
        let snapshot = host.scan(now_ms);
        assert_eq!((snapshot.rechecked > 1, snapshot.pools[0].oldest_ms), (false, 0));
        assert!(!host.probed.contains_key(&7));
    }
}

#[test]
fn what_is_planned_does_not_grow_with_the_scans() {
    let mut host = Host::new();
    for pid in 100..200 {
        host.add(pid, "ruby", "ruby");
    }
    for now_ms in (START_MS..START_MS + 300_000).step_by(250) {
        host.scan(now_ms);
    }
    assert!(host.tracker.rechecks.len() <= 2 * host.tracker.entries.len(), "{} plans", host.tracker.rechecks.len());
}

/// Another way to look, which ends after so many looks.
struct Mortal {
    sweep: Sweep,
    looks_left: u32,
}

impl Discovery for Mortal {
    fn name(&self) -> &'static str {
        "mortal"
    }

    fn look(&mut self, procfs: &mut Procfs, found: &mut Vec<Found>) -> Result<Look, String> {
        self.looks_left = self.looks_left.checked_sub(1).ok_or("it is tired")?;
        self.sweep.look(procfs, found)?;
        // Not what a sweep says of who is who.
        for each in found.iter_mut() {
            each.ident = 77;
        }
        Ok(Look::Listed)
    }
}

#[test]
fn a_discovery_that_ends_is_replaced_by_a_sweep_that_counts_the_same_and_calls_nobody_new() {
    let mut host = Host::new().kernels();
    host.tracker.discovery = Box::new(Mortal { sweep: Sweep::new(&host.tracker.procfs), looks_left: 1 });
    host.start(7, "ruby", IDLE, 0);
    host.start(8, "ruby", "ruby", 0);
    let before = host.scan(START_MS);
    assert_eq!((before.discovery, before.pools[0].workers, host.tracker.fallback()), ("mortal", 1, None));
    let after = host.scan(START_MS + 500);
    assert_eq!((after.discovery, &after.pools), ("sweep", &before.pools));
    assert_eq!(host.tracker.fallback(), Some("mortal failed: it is tired"));
    host.scan(START_MS + 10_000);
    // As old as its start says, it is not looked at every second.
    let times = host.probes_of(8, START_MS + 10_100, START_MS + 100_000, 100);
    assert!(gaps(&times).iter().all(|&gap| gap == 30_000) && times.len() >= 3, "{times:?}");
}

#[test]
fn who_could_not_be_read_for_want_of_a_descriptor_is_read_by_the_next_scan() {
    let mut host = Host::new();
    host.add(7, "ruby", IDLE);
    host.tracker.begin(START_MS * 1_000_000, &|_| false);
    while let Some(task) = host.tracker.next_task() {
        host.tracker.take(task, Outcome::NoFds, &[], START_MS * 1_000_000);
    }
    assert!(!host.tracker.finish().visible);
    let next = host.scan(START_MS + 10);
    assert_eq!((next.visible, next.pools[0].workers), (true, 1));
}

#[test]
fn who_hung_its_first_reader_may_be_a_worker_and_who_was_read_before_is_what_it_was_then() {
    let mut host = Host::new();
    for (pid, comm, title) in [(7, "ruby", IDLE), (8, "ruby", "ruby"), (9, "sh", "sh")] {
        host.add(pid, comm, title);
    }
    host.scan(START_MS);
    host.add(10, "ruby", "sidekiq 7.3.0 shop [1 of 10 busy]");
    host.tracker.begin((START_MS + 10) * 1_000_000, &|_| false);
    for pid in [7, 8, 9, 10] {
        host.tracker.hung(pid, 1);
    }
    host.tracker.hung(11, 1);
    while host.tracker.next_task().is_some_and(|task| task.pid != 11) {}
    let pool = host.tracker.finish().pools[0];
    assert_eq!((pool.workers, pool.readable, pool.quarantined, pool.unread), (1, 0, 5, 1));
}

/// Whether a process that hung a reader is read again ten seconds later.
fn is_tried_again(hangs: bool) -> bool {
    let mut host = Host::new();
    host.add(7, "ruby", "ruby");
    host.scan(START_MS);
    host.tracker.hung(7, 1);
    let mut tried = false;
    for later_ms in [1, 10_000] {
        host.tracker.begin((START_MS + later_ms) * 1_000_000, &|_| hangs);
        tried = std::iter::from_fn(|| host.tracker.next_task()).any(|task| task.pid == 7);
    }
    tried
}

#[test]
fn a_process_is_left_alone_while_a_reader_hangs_there() {
    assert!(!is_tried_again(true));
}

#[test]
fn a_process_whose_reader_is_back_is_tried_again_whenever_it_came_back() {
    assert!(is_tried_again(false));
}
