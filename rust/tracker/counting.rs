//! Adds up what is known: counts for a snapshot, and a list for people. It must never read a process.

use super::{Entry, State, Tracker, WorkerInfo};
use crate::pid::Pid;
use crate::snapshot::{self, Counts, Member};
use crate::title::Reading;

impl Tracker {
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
                works_for_ms: w.effort.map_or(0, |e| e.works_for_ms()),
                cores_milli: w.effort.map(|e| e.cores_milli()),
            }),
            _ => None,
        });
        infos.collect()
    }

    /// Possible workers of a selector that were never read: the agent may not, or a reader hung there. The latter gives
    /// no user a power over the host's state that they lack: who passes the selector's filters can as well show a
    /// title that cannot be read, or a busy one. A quarantined process that was read before counts as it was then.
    fn unread(&self, bit: u32) -> u32 {
        let denied = |entry: &&Entry| matches!(entry.state, State::Denied(mask) if mask & bit != 0);
        let never_read = |pid: &Pid| matches!(self.entries.get(pid), Some(Entry { state: State::Unread, .. }));
        // Hardly any host has one, so the entries are usually not searched.
        let denied = if self.denied == 0 { 0 } else { self.entries.values().filter(denied).count() };
        (denied + self.quarantine.of(bit).filter(never_read).count()) as u32
    }

    pub(super) fn count(&mut self, selector: usize, now_ns: u64) -> Counts {
        let bit = 1 << selector;
        let cpu = self.context.selectors[selector].cpu;
        let mut members: Vec<Member> = Vec::with_capacity(self.workers.len());
        for &pid in &self.workers {
            if let State::Worker(w) = &self.entries[&pid].state {
                if w.readings[selector] != Reading::No {
                    members.push(Member {
                        pid,
                        ppid: w.ppid,
                        reading: w.readings[selector],
                        works: w.effort.filter(|_| cpu.now).map_or(0, |e| e.threads()),
                        cores_milli: w.effort.map_or(0, |e| e.cores_milli()),
                        readable: !self.quarantine.holds(pid),
                        age_ms: self.now_ms.saturating_sub(w.read_ms),
                        copy: w.copies & bit != 0,
                    });
                }
            }
        }
        let mut counts = snapshot::count(&mut members);
        counts.quarantined = self.quarantine.of(bit).count() as u32;
        counts.unread = self.unread(bit);
        counts.others_milli = self.others[selector].look(now_ns);
        for member in members.iter().filter(|m| m.copy) {
            if let Some(Entry { state: State::Worker(w), .. }) = self.entries.get_mut(&member.pid) {
                w.copies |= bit;
            }
        }
        counts
    }
}
