//! WORLD. The processes known now, and what is to be read of them next.
//!
//! Workers keep their `cmdline` file open and cost one read each per scan. Whatever is not a
//! worker is looked at again by time, not by scan. A process that hung a reader is
//! quarantined. The tracker itself never reads a process: it hands out [`Job`]s and takes
//! their outcomes, so that it is free while a reader hangs.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use crate::discovery::ebpf::Kernel;
use crate::discovery::{Discovery, Found, Look, sweep::Sweep};
use crate::job::{Context, Job, Kind, Match, Outcome, Probed};
use crate::procfs::{Files, Procfs};
use crate::quarantine::Quarantine;
use crate::snapshot::{self, Counts, Member, Pid, Snapshot};
use crate::title::{Reading, first_string};

mod entry;
mod look;
mod rechecks;

pub use entry::WorkerInfo;
use entry::{Entry, State, Worker};
use rechecks::Rechecks;

/// What is kept of a title for people to look at.
const TITLE_SHOWN_MAX: usize = 512;

/// See the module.
pub struct Tracker {
    context: Arc<Context>,
    procfs: Procfs,
    discovery: Box<dyn Discovery>,
    /// Why the discovery is another one than at the start, once it is.
    fallback: Option<String>,
    found: Vec<Found>,
    before: Vec<Found>,
    entries: HashMap<Pid, Entry>,
    workers: BTreeSet<Pid>,
    /// Workers absent from the last listing.
    missing: Vec<Pid>,
    rechecks: Rechecks,
    quarantine: Quarantine,
    queue: VecDeque<Job>,
    denied: u32,
    /// Scans in a row for which the discovery found no descriptor.
    starved: u32,
    kept: usize,
    kept_max: usize,
    first: bool,
    kernels: bool,
    now_ms: u64,
    next: Snapshot,
}

impl Tracker {
    /// A tracker that has seen nothing yet. At most `kept_max` files stay open.
    #[must_use]
    pub fn new(context: Arc<Context>, procfs: Procfs, discovery: Box<dyn Discovery>, kept_max: usize) -> Self {
        let kernels = procfs.is_kernels();
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
            denied: 0,
            starved: 0,
            kept: 0,
            kept_max,
            first: true,
            kernels,
            now_ms: 0,
            next: Snapshot::default(),
        }
    }

    /// The files that jobs read.
    #[must_use]
    pub fn files(&self) -> Files {
        self.procfs.files().clone()
    }

    /// What jobs are read by.
    #[must_use]
    pub fn context(&self) -> Arc<Context> {
        Arc::clone(&self.context)
    }

    /// The discovery in use.
    #[must_use]
    pub fn discovery(&self) -> &'static str {
        self.discovery.name()
    }

    /// Why the discovery is not the one it began with.
    #[must_use]
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// The programs in the kernel, for a successor to take over.
    #[must_use]
    pub fn kernel(&self) -> Option<Kernel> {
        self.discovery.kernel()
    }

    /// Begins a scan: looks for processes, and queues what is to be read. `hangs` tells where a
    /// reader hangs now.
    pub fn begin(&mut self, now_ns: u64, hangs: &dyn Fn(Pid) -> bool) {
        self.now_ms = now_ns / 1_000_000;
        self.quarantine.heal(hangs, self.now_ms);
        self.next = Snapshot { began_ns: now_ns, visible: self.procfs.visible(), ..Snapshot::default() };
        if !self.next.visible {
            return;
        }
        match self.look() {
            Some(Look::Listed) => self.take_listing(),
            Some(_) => {}
            None => {
                self.next.visible = false;
                return;
            }
        }
        for &pid in &self.workers {
            if let State::Worker(worker) = &self.entries[&pid].state {
                if !self.quarantine.holds(pid) {
                    let kind = Kind::Title { file: worker.file.clone(), accepted: worker.accepted };
                    self.queue.push_back(Job { pid, kind });
                }
            }
        }
        self.queue_rechecks();
        // Those that hung a reader come last, so that they keep nobody waiting.
        // Not only upon a listing that changed: the reader may have come back after it.
        self.quarantine.forget_unless(|pid| self.entries.contains_key(&pid));
        for pid in self.quarantine.due(self.now_ms) {
            if self.entries.contains_key(&pid) {
                self.queue.push_back(Job { pid, kind: Kind::Probe { start: false } });
            }
        }
    }

    /// The next thing to read, if any.
    pub fn next_job(&mut self) -> Option<Job> {
        self.queue.pop_front()
    }

    /// Takes what a job brought. `title` holds the bytes of a [`Kind::Title`] job.
    pub fn take(&mut self, job: Job, outcome: Outcome, title: &[u8]) {
        match outcome {
            Outcome::NoFds if self.give_back() => self.queue.push_back(job),
            Outcome::NoFds => self.starved(job.pid),
            Outcome::Title => self.take_title(job.pid, title),
            Outcome::Probed(probed) => {
                self.next.rechecked += 1;
                self.take_probe(job.pid, probed);
            }
            Outcome::Gone => self.take_gone(&job),
            Outcome::Denied => self.settle(job.pid, State::Denied),
        }
    }

    /// A process was read in good time.
    pub fn on_time(&mut self, pid: Pid) {
        self.quarantine.release(pid);
    }

    /// A reader hangs at this process and was left behind. Its last reading stays.
    pub fn hung(&mut self, pid: Pid, mask: u32) {
        self.quarantine.hung(pid, mask, self.now_ms);
    }

    /// A reader hangs at this process, and no other shall.
    pub fn leave_alone(&mut self, pid: Pid) {
        if !self.quarantine.hangs(pid) {
            self.hung_before(pid, self.now_ms * 1_000_000);
        }
    }

    /// A former scanner's reader hangs at this process. Whose it is can be read all the same.
    pub fn hung_before(&mut self, pid: Pid, now_ns: u64) {
        let mask = self.context.identify(pid, self.procfs.files()).map_or(u32::MAX, |of| of.accepted);
        self.quarantine.hung(pid, mask, now_ns / 1_000_000);
    }

    /// Forgets all, and closes what it can, because nobody will ask any more.
    pub fn abandon(&mut self) {
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
        }
        let mut snapshot = std::mem::take(&mut self.next);
        snapshot.discovery = self.discovery.name();
        snapshot.processes = self.found.len() as u32;
        snapshot.unreadable = self.denied;
        snapshot.pools = (0..self.context.selectors.len()).map(|i| self.count(i)).collect();
        snapshot
    }

    /// Every process with a worker's title, as of the last scan.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerInfo> {
        let infos = self.workers.iter().filter_map(|pid| match &self.entries[pid].state {
            State::Worker(w) => Some(WorkerInfo {
                pid: *pid,
                uid: w.uid,
                title: w.title.clone(),
                readings: w.readings.clone(),
                copy: w.copies != 0,
                quarantined: self.quarantine.holds(*pid),
                age_ms: self.now_ms.saturating_sub(w.read_ms),
            }),
            _ => None,
        });
        infos.collect()
    }

    fn take_listing(&mut self) {
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
                    _ => self.came(new),
                }
            }
            for gone in old {
                self.gone(gone.pid);
            }
        }
        self.before.clone_from(&found);
        self.found = found;
    }

    fn came(&mut self, new: Found) {
        // What is there at the first scan came at a time that only its start tells.
        let came_ms = (!self.first || !self.kernels).then_some(self.now_ms);
        let fresh = Entry { ident: new.ident, state: State::Unread, came_ms, started_ms: None, due_ms: 0 };
        let entry = self.entries.entry(new.pid).or_insert(fresh);
        entry.ident = new.ident;
        entry.came_ms = came_ms;
        if !self.quarantine.hangs(new.pid) {
            self.queue.push_back(Job { pid: new.pid, kind: Kind::Probe { start: false } });
        }
    }

    fn gone(&mut self, pid: Pid) {
        // One missed sighting drops no worker: its own file tells when it is really gone.
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
        while let Some((due_ms, pid)) = self.rechecks.next(self.now_ms) {
            let Some(entry) = self.entries.get(&pid) else { continue };
            if entry.due_ms != due_ms || self.quarantine.holds(pid) {
                continue;
            }
            // The start of an old candidate tells whether its pid was reused.
            let start = matches!(entry.state, State::Candidate) && !rechecks::is_young(entry.came_ms, self.now_ms);
            self.queue.push_back(Job { pid, kind: Kind::Probe { start: start || entry.came_ms.is_none() } });
        }
    }

    fn take_title(&mut self, pid: Pid, title: &[u8]) {
        let context = Arc::clone(&self.context);
        let Some(Entry { state: State::Worker(worker), .. }) = self.entries.get_mut(&pid) else { return };
        let title = first_string(title);
        if title.is_empty() {
            // A zombie reads as empty, and so can a live process for a moment.
            if std::mem::replace(&mut worker.was_empty, true) {
                self.renamed(pid, State::Candidate);
            }
            return;
        }
        worker.was_empty = false;
        worker.read_ms = self.now_ms;
        let mut any = false;
        for (i, selector) in context.selectors.iter().enumerate() {
            if worker.accepted & (1 << i) != 0 {
                worker.readings[i] = selector.grammar.read(title);
                any |= worker.readings[i] != Reading::No;
            }
        }
        if context.detail {
            worker.title = title[..title.len().min(TITLE_SHOWN_MAX)].to_vec();
        }
        if !any {
            self.renamed(pid, State::Candidate);
        }
    }

    fn take_probe(&mut self, pid: Pid, probed: Probed) {
        let Some(entry) = self.entries.get_mut(&pid) else { return };
        if let Some(stat) = probed.stat {
            let reused = entry.started_ms.is_some_and(|s| s != stat.started_ms);
            if reused || (entry.came_ms.is_none() && self.kernels) {
                entry.came_ms = Some(if reused { self.now_ms } else { stat.started_ms.min(self.now_ms) });
            }
            entry.started_ms = Some(stat.started_ms);
        }
        let was_foreign = matches!(entry.state, State::Foreign);
        let seen_before = !matches!(entry.state, State::Unread);
        match probed.found {
            // Its second look: at the first, it may have been in the middle of a rename that began
            // before the kernel's programs were there to report it.
            Match::Foreign if seen_before && self.discovery.reports_renames(pid) => {
                self.discovery.forget(pid);
                self.drop_entry(pid);
            }
            Match::Foreign => self.settle(pid, State::Foreign),
            Match::Candidate if was_foreign => self.renamed(pid, State::Candidate),
            Match::Candidate => self.settle(pid, State::Candidate),
            Match::Worker { file, accepted, readings, ppid, uid, title } => {
                let copies = match &entry.state {
                    State::Worker(old) => old.copies,
                    _ => 0,
                };
                let keeps = matches!(&entry.state, State::Worker(w) if w.file.is_some());
                let file = (keeps || self.kept < self.kept_max).then(|| Arc::new(file));
                let title = title[..title.len().min(TITLE_SHOWN_MAX)].to_vec();
                let read_ms = self.now_ms;
                let worker = Worker { file, accepted, readings, ppid, uid, title, read_ms, copies, was_empty: false };
                self.settle(pid, State::Worker(Box::new(worker)));
            }
        }
    }

    /// A process stays unread for want of a file descriptor. It may be anything, so this scan
    /// has not seen the host; a known worker keeps its last reading.
    fn starved(&mut self, pid: Pid) {
        self.next.visible = false;
        if !self.workers.contains(&pid) {
            self.settle(pid, State::Unread);
        }
    }

    fn take_gone(&mut self, job: &Job) {
        self.next.vanished += 1;
        self.discovery.forget(job.pid);
        let listed = self.found.binary_search_by_key(&job.pid, |f| f.pid).is_ok();
        if matches!(job.kind, Kind::Title { .. }) {
            self.drop_entry(job.pid);
            // Its pid may be another process's by now, which no listing would tell.
            if listed {
                let now_ms = self.now_ms;
                let fresh =
                    Entry { ident: 0, state: State::Unread, came_ms: Some(now_ms), started_ms: None, due_ms: 0 };
                self.entries.insert(job.pid, fresh);
                self.queue.push_back(Job { pid: job.pid, kind: Kind::Probe { start: false } });
            }
        } else {
            self.settle(job.pid, State::Unread);
        }
    }

    /// As [`Self::settle`], for a process that is something else since just now.
    fn renamed(&mut self, pid: Pid, state: State) {
        if let Some(entry) = self.entries.get_mut(&pid) {
            entry.came_ms = Some(self.now_ms);
        }
        self.settle(pid, state);
    }

    /// Puts a process into a state, and plans when to look at it again.
    fn settle(&mut self, pid: Pid, state: State) {
        let now_ms = self.now_ms;
        let Some(entry) = self.entries.get_mut(&pid) else { return };
        let keeps = |s: &State| usize::from(matches!(s, State::Worker(w) if w.file.is_some()));
        let denied = |s: &State| u32::from(matches!(s, State::Denied));
        self.kept = self.kept + keeps(&state) - keeps(&entry.state);
        self.denied = self.denied + denied(&state) - denied(&entry.state);
        if matches!(state, State::Worker(_)) {
            self.workers.insert(pid);
        } else {
            self.workers.remove(&pid);
        }
        entry.state = state;
        entry.due_ms = rechecks::due_ms(pid, entry.state.kind(), entry.came_ms, now_ms);
        self.rechecks.plan(pid, entry.due_ms);
    }

    fn count(&mut self, selector: usize) -> Counts {
        let bit = 1 << selector;
        let mut members: Vec<Member> = Vec::with_capacity(self.workers.len());
        for &pid in &self.workers {
            if let State::Worker(w) = &self.entries[&pid].state {
                if w.readings[selector] != Reading::No {
                    members.push(Member {
                        pid,
                        ppid: w.ppid,
                        reading: w.readings[selector],
                        readable: !self.quarantine.holds(pid),
                        age_ms: self.now_ms.saturating_sub(w.read_ms),
                        copy: w.copies & bit != 0,
                    });
                }
            }
        }
        let mut counts = snapshot::count(&mut members);
        counts.quarantined = self.quarantine.count(bit);
        for member in members.iter().filter(|m| m.copy) {
            if let Some(Entry { state: State::Worker(w), .. }) = self.entries.get_mut(&member.pid) {
                w.copies |= bit;
            }
        }
        counts
    }
}

#[cfg(test)]
pub(crate) mod tests;
