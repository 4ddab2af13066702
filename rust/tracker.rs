//! WORLD. The processes known now, and what to read of them next.
//!
//! A worker's `cmdline` file stays open, so a worker costs one read per scan. All other processes are re-checked by
//! time, not by scan. A process that blocked a reader is quarantined. The tracker itself must never read a process: it
//! hands out [`ReadTask`]s and takes their outcomes, so that it is free while a reader hangs.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::cgroup_cpu::OtherCgroups;
use crate::cpu_time::Way;
use crate::discovery::{Discovery, Found, Handover, Look, sweep::Sweep};
use crate::pid::Pid;
use crate::procfs::{Files, Procfs};
use crate::quarantine::Quarantine;
use crate::read_task::{Context, Kind, Outcome, ReadTask};
use crate::snapshot::Snapshot;

mod counting;
mod entry;
mod look;
mod outcomes;
mod rechecks;

pub use entry::WorkerInfo;
use entry::{Entry, Moment, State, Worker};
use rechecks::Rechecks;

/// The maximum number of re-checks in one scan: about 50 ms. The rest waits for the next scan, so that even with
/// hundreds of thousands of processes no scan takes so long that its sample has expired when it ends.
const RECHECKS_EACH_SCAN_MAX: usize = 10_000;

/// How much of a title is kept, to be shown to people.
const TITLE_SHOWN_MAX: usize = 512;

/// See the module.
pub struct Tracker {
    context: Arc<Context>,
    procfs: Procfs,
    discovery: Box<dyn Discovery>,
    /// Why the discovery is no longer the initial one, if it is not.
    fallback: Option<String>,
    found: Vec<Found>,
    before: Vec<Found>,
    entries: HashMap<Pid, Entry>,
    workers: BTreeSet<Pid>,
    /// Workers absent from the last listing.
    missing: Vec<Pid>,
    rechecks: Rechecks,
    quarantine: Quarantine,
    queue: VecDeque<ReadTask>,
    /// One per selector.
    others: Vec<OtherCgroups>,
    denied: u32,
    /// Scans in a row for which the discovery found no descriptor.
    starved: u32,
    kept: usize,
    kept_max: usize,
    first: bool,
    /// There has been a worker.
    seen_workers: bool,
    kernels: bool,
    now_ms: u64,
    next: Snapshot,
}

impl Tracker {
    /// A new tracker. At most `kept_max` files stay open.
    #[must_use]
    pub fn new(context: Arc<Context>, procfs: Procfs, discovery: Box<dyn Discovery>, kept_max: usize) -> Self {
        let kernels = procfs.is_kernels();
        // A worker whose CPU time is read from a file keeps two.
        let kept_max = if context.way == Way::Stat && context.wants_cpu() != 0 { kept_max / 2 } else { kept_max };
        let others = context.selectors.iter().map(|s| OtherCgroups::new(&s.others)).collect();
        Self {
            context,
            procfs,
            discovery,
            fallback: None,
            found: Vec::new(),
            before: Vec::new(),
            entries: HashMap::new(),
            workers: BTreeSet::new(),
            missing: Vec::new(),
            rechecks: Rechecks::default(),
            quarantine: Quarantine::default(),
            queue: VecDeque::new(),
            others,
            denied: 0,
            starved: 0,
            kept: 0,
            kept_max,
            first: true,
            seen_workers: false,
            kernels,
            now_ms: 0,
            next: Snapshot::default(),
        }
    }

    /// The files that tasks read.
    #[must_use]
    pub fn files(&self) -> Files {
        self.procfs.files().clone()
    }

    /// What tasks need to know.
    #[must_use]
    pub fn context(&self) -> Arc<Context> {
        Arc::clone(&self.context)
    }

    /// The discovery in use.
    #[must_use]
    pub fn discovery(&self) -> &'static str {
        self.discovery.name()
    }

    /// Why the discovery is not the initial one.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// What a successor's discovery takes over, if anything.
    #[must_use]
    pub fn handover(&self) -> Option<Handover> {
        self.discovery.handover()
    }

    /// Begins a scan: looks for processes, and queues what is to be read. `hangs`: whether a reader hangs
    /// in a process now.
    pub fn begin(&mut self, now_ns: u64, hangs: &dyn Fn(Pid) -> bool) {
        self.now_ms = now_ns / 1_000_000;
        self.next = Snapshot { began_ns: now_ns, visible: self.procfs.visible(), ..Snapshot::default() };
        if !self.next.visible {
            return;
        }
        match self.look() {
            Some(Look::Listed) => self.take_listing(hangs),
            Some(_) => {}
            None => {
                self.next.visible = false;
                return;
            }
        }
        let wants_cpu = self.context.wants_cpu();
        for &pid in &self.workers {
            if let State::Worker(worker) = &self.entries[&pid].state {
                if !self.quarantine.holds(pid) {
                    let (files, accepted) = (worker.files.clone(), worker.accepted);
                    let kind = Kind::Title { files, accepted, cpu: accepted & wants_cpu != 0 };
                    self.queue.push_back(ReadTask { pid, kind });
                }
            }
        }
        self.queue_rechecks();
        // Processes that blocked a reader come last, so that they delay no others. This is done even if the listing has
        // not changed, since the reader may have returned after it. A process in which a reader hangs still exists.
        self.quarantine.forget_unless(|pid| self.entries.contains_key(&pid) || hangs(pid));
        for pid in self.quarantine.due(self.now_ms, hangs) {
            if self.entries.contains_key(&pid) {
                self.queue.push_back(ReadTask { pid, kind: Kind::Probe { start: false } });
            }
        }
    }

    /// The next thing to read, if any.
    pub fn next_task(&mut self) -> Option<ReadTask> {
        self.queue.pop_front()
    }

    /// Takes the outcome of a task that started at `at_ns`. `title` holds the bytes of a [`Kind::Title`] task.
    pub fn take(&mut self, task: ReadTask, outcome: Outcome, title: &[u8], at_ns: u64) {
        match outcome {
            Outcome::NoFds if self.give_back() => self.queue.push_back(task),
            Outcome::NoFds => self.starved(task.pid),
            Outcome::Title { cpu_ns } => {
                let wanted = matches!(task.kind, Kind::Title { cpu: true, .. });
                self.next.cpu_untold += u32::from(wanted && cpu_ns.is_none());
                self.take_title(task.pid, title, cpu_ns.map(|cpu_ns| (at_ns, cpu_ns)));
            }
            Outcome::Probed(probed) => {
                self.next.rechecked += 1;
                self.take_probe(task.pid, probed, at_ns);
            }
            Outcome::Gone => self.take_gone(&task),
            Outcome::Denied(mask) => self.settle(task.pid, State::Denied(mask)),
        }
    }

    /// A process was read in time.
    pub fn on_time(&mut self, pid: Pid) {
        self.quarantine.release(pid);
    }

    /// A reader hangs in this process and was detached. Its last reading stays.
    pub fn hung(&mut self, pid: Pid, mask: u32) {
        self.quarantine.strike(pid, mask, self.now_ms);
    }

    /// A reader hangs in this process, and no other may read it.
    pub fn leave_alone(&mut self, pid: Pid) {
        if !self.quarantine.holds(pid) {
            self.hung_before(pid, self.now_ms * 1_000_000);
        }
    }

    /// A former scanner's reader hangs in this process. Its selectors can still be determined.
    pub fn hung_before(&mut self, pid: Pid, now_ns: u64) {
        let mask = self.context.identify(pid, self.procfs.files()).map_or(u32::MAX, |of| of.accepted);
        self.quarantine.strike(pid, mask, now_ns / 1_000_000);
    }

    /// Forgets everything, and closes what it can, because it is no longer needed.
    pub fn shut_down(&mut self) {
        self.discovery = Box::new(Sweep::default());
        self.queue.clear();
        self.workers.clear();
        self.entries.clear();
        self.found.clear();
    }

    /// Ends a scan: adds up what is known now.
    pub fn finish(&mut self) -> Snapshot {
        if self.next.visible {
            self.first = false;
            self.seen_workers |= !self.workers.is_empty();
        }
        let mut snapshot = std::mem::take(&mut self.next);
        snapshot.whole = self.seen_workers || self.procfs.shows_the_host();
        snapshot.discovery = self.discovery.name();
        snapshot.processes = self.found.len() as u32;
        snapshot.unreadable = self.denied;
        let now_ns = self.now_ms * 1_000_000;
        snapshot.pools = (0..self.context.selectors.len()).map(|i| self.count(i, now_ns)).collect();
        snapshot
    }

    fn take_listing(&mut self, hangs: &dyn Fn(Pid) -> bool) {
        let (found, before) = (std::mem::take(&mut self.found), std::mem::take(&mut self.before));
        let present = |pid: Pid| found.binary_search_by_key(&pid, |f| f.pid).is_ok();
        for pid in std::mem::take(&mut self.missing) {
            if !present(pid) {
                self.drop_entry(pid);
            }
        }
        if found != before {
            let mut old = before.iter().peekable();
            for &new in &found {
                while let Some(gone) = old.next_if(|o| o.pid < new.pid) {
                    self.gone(gone.pid);
                }
                match old.next_if(|o| o.pid == new.pid) {
                    Some(same) if same.ident == new.ident => {}
                    _ => self.came(new, hangs),
                }
            }
            for gone in old {
                self.gone(gone.pid);
            }
        }
        self.before.clone_from(&found);
        self.found = found;
    }

    fn came(&mut self, new: Found, hangs: &dyn Fn(Pid) -> bool) {
        // Of a process that exists at the first scan, only its start time shows when it came.
        let came = if self.first && self.kernels { Moment::UNKNOWN } else { Moment::at(self.now_ms) };
        let fresh = Entry { ident: new.ident, state: State::Unread, came, started: Moment::UNKNOWN, due_ms: 0 };
        let entry = self.entries.entry(new.pid).or_insert(fresh);
        entry.ident = new.ident;
        entry.came = came;
        if hangs(new.pid) {
            self.leave_alone(new.pid);
        } else {
            self.queue.push_back(ReadTask { pid: new.pid, kind: Kind::Probe { start: false } });
        }
    }

    fn gone(&mut self, pid: Pid) {
        // A worker missing from one listing is not dropped: its own file shows when it is really gone.
        if self.workers.contains(&pid) {
            self.missing.push(pid);
        } else {
            self.drop_entry(pid);
        }
    }

    fn drop_entry(&mut self, pid: Pid) {
        self.settle(pid, State::Unread);
        self.entries.remove(&pid);
    }

    fn queue_rechecks(&mut self) {
        let budget = self.queue.len() + RECHECKS_EACH_SCAN_MAX;
        let others = self.entries.len() - self.workers.len();
        if others <= self.discovery.rechecks_each_scan_max() {
            let (now_ms, queued) = (self.now_ms, self.queue.iter().map(|j| j.pid).collect::<BTreeSet<Pid>>());
            for (&pid, entry) in &mut self.entries {
                if !matches!(entry.state, State::Worker(_)) && !queued.contains(&pid) {
                    entry.due_ms = now_ms;
                    self.rechecks.plan(pid, now_ms);
                }
            }
        }
        while self.queue.len() < budget {
            let Some((due_ms, pid)) = self.rechecks.next(self.now_ms) else { break };
            let Some(entry) = self.entries.get(&pid) else { continue };
            if entry.due_ms != due_ms || self.quarantine.holds(pid) {
                continue;
            }
            // The start of an old candidate shows whether its pid was reused.
            let start = matches!(entry.state, State::Candidate) && !rechecks::is_young(entry.came.ms(), self.now_ms);
            self.queue.push_back(ReadTask { pid, kind: Kind::Probe { start: start || entry.came == Moment::UNKNOWN } });
        }
    }

    /// Like [`Self::settle`], for a process that has just become something else.
    fn renamed(&mut self, pid: Pid, state: State) {
        if let Some(entry) = self.entries.get_mut(&pid) {
            entry.came = Moment::at(self.now_ms);
        }
        self.settle(pid, state);
    }

    /// Puts a process into a state, and plans when to look at it again.
    fn settle(&mut self, pid: Pid, state: State) {
        let now_ms = self.now_ms;
        let Some(entry) = self.entries.get_mut(&pid) else { return };
        let keeps = |s: &State| usize::from(matches!(s, State::Worker(w) if w.files.is_some()));
        let denied = |s: &State| u32::from(matches!(s, State::Denied(_)));
        self.kept = self.kept + keeps(&state) - keeps(&entry.state);
        self.denied = self.denied + denied(&state) - denied(&entry.state);
        if matches!(state, State::Worker(_)) {
            self.workers.insert(pid);
        } else {
            self.workers.remove(&pid);
        }
        entry.state = state;
        entry.due_ms = rechecks::due_ms(pid, entry.state.kind(), entry.came.ms(), now_ms);
        self.rechecks.plan(pid, entry.due_ms);
    }
}

#[cfg(test)]
pub(crate) mod tests;
