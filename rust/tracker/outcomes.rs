//! The outcomes of a read: a title, a full probe, that the process is gone, or that there was no file descriptor.
//! Each puts the process into a state. It must never read a process.

use std::sync::Arc;

use super::{Entry, Moment, State, TITLE_SHOWN_MAX, Tracker, Worker};
use crate::effort::Effort;
use crate::pid::Pid;
use crate::read_task::{Kind, Match, Probed, ReadTask};
use crate::title::{Reading, first_string};

impl Tracker {
    /// `cpu` is when the CPU time was read, just before the title, and the CPU time then.
    pub(super) fn take_title(&mut self, pid: Pid, title: &[u8], cpu: Option<(u64, u64)>) {
        let context = Arc::clone(&self.context);
        let Some(Entry { state: State::Worker(worker), .. }) = self.entries.get_mut(&pid) else { return };
        let title = first_string(title);
        if title.is_empty() {
            // A zombie's title is empty, and a live process's can be for a moment.
            if std::mem::replace(&mut worker.was_empty, true) {
                self.renamed(pid, State::Candidate);
            }
            return;
        }
        worker.was_empty = false;
        worker.read_ms = self.now_ms;
        let had_a_job = worker.has_a_job();
        let mut any = false;
        for (i, selector) in context.selectors.iter().enumerate() {
            if worker.accepted & (1 << i) != 0 {
                worker.readings[i] = selector.grammar.read(title);
                any |= worker.readings[i] != Reading::No;
            }
        }
        worker.take_cpu(cpu, had_a_job);
        if context.detail {
            worker.title = title[..title.len().min(TITLE_SHOWN_MAX)].to_vec();
        }
        if !any {
            self.renamed(pid, State::Candidate);
        }
    }

    pub(super) fn take_probe(&mut self, pid: Pid, probed: Probed, at_ns: u64) {
        let Some(entry) = self.entries.get_mut(&pid) else { return };
        let mut reused = false;
        if let Some(stat) = probed.stat {
            reused = entry.started.ms().is_some_and(|ms| ms != stat.started_ms);
            if reused || (entry.came == Moment::UNKNOWN && self.kernels) {
                entry.came = Moment::at(if reused { self.now_ms } else { stat.started_ms.min(self.now_ms) });
            }
            entry.started = Moment::at(stat.started_ms);
        }
        let was_foreign = matches!(entry.state, State::Foreign);
        let seen_before = !matches!(entry.state, State::Unread);
        match probed.found {
            // The second check: at the first, it may have been in the middle of a rename that started before the BPF
            // programs could report it.
            Match::Foreign if seen_before && self.discovery.reports_renames(pid) => {
                self.discovery.forget(pid);
                self.drop_entry(pid);
            }
            Match::Foreign => self.settle(pid, State::Foreign),
            Match::Candidate if was_foreign => self.renamed(pid, State::Candidate),
            Match::Candidate => self.settle(pid, State::Candidate),
            Match::Worker { files, accepted, readings, ppid, uid, title, cpu_ns } => {
                // A copy whose parent exited before it was ever seen is recognisable: its title shows many threads,
                // but it has only one or two.
                let orphaned = |i: &usize| {
                    matches!(readings[*i], Reading::Worker { total: 3.., .. })
                        && ppid == 1
                        && probed.stat.is_some_and(|stat| (1..=2).contains(&stat.threads))
                };
                let orphaned = (0..readings.len()).filter(orphaned).fold(0, |bits, i| bits | 1 << i);
                let (copies, effort) = match &entry.state {
                    // It is another process by now.
                    State::Worker(_) if reused => (orphaned, None),
                    // If its job has ended since, the CPU time until then was the job's.
                    State::Worker(old) if old.has_a_job() && !readings.iter().any(Reading::has_a_job) => {
                        (old.copies, None)
                    }
                    State::Worker(old) => (old.copies, old.effort),
                    _ => (orphaned, None),
                };
                let keeps = matches!(&entry.state, State::Worker(w) if w.files.is_some());
                let files = (keeps || self.kept < self.kept_max).then(|| Arc::new(files));
                let effort = effort.or(cpu_ns.map(|cpu_ns| Effort::new(at_ns, cpu_ns)));
                let title = title[..title.len().min(TITLE_SHOWN_MAX)].to_vec();
                let read_ms = self.now_ms;
                let was_empty = false;
                let worker = Worker { files, accepted, readings, ppid, uid, title, read_ms, copies, was_empty, effort };
                self.settle(pid, State::Worker(Box::new(worker)));
            }
        }
    }

    /// A process stays unread for lack of a file descriptor. It may be anything, so this scan is incomplete; a known
    /// worker keeps its last reading.
    pub(super) fn starved(&mut self, pid: Pid) {
        self.next.visible = false;
        if !self.workers.contains(&pid) {
            self.settle(pid, State::Unread);
            // Until this process is read, the next scan has not seen the whole host either.
            if let Some(entry) = self.entries.get_mut(&pid) {
                entry.due_ms = self.now_ms;
                self.rechecks.plan(pid, self.now_ms);
            }
        }
    }

    pub(super) fn take_gone(&mut self, task: &ReadTask) {
        self.next.vanished += 1;
        self.discovery.forget(task.pid);
        let listed = self.found.binary_search_by_key(&task.pid, |f| f.pid).is_ok();
        if matches!(task.kind, Kind::Title { .. }) {
            self.drop_entry(task.pid);
            // Its pid may belong to another process by now, which no listing would show.
            if listed {
                let now_ms = self.now_ms;
                let fresh = Entry {
                    ident: 0,
                    state: State::Unread,
                    came: Moment::at(now_ms),
                    started: Moment::UNKNOWN,
                    due_ms: 0,
                };
                self.entries.insert(task.pid, fresh);
                self.queue.push_back(ReadTask { pid: task.pid, kind: Kind::Probe { start: false } });
            }
        } else {
            self.settle(task.pid, State::Unread);
        }
    }
}
