//! WORLD. What a reader thread does: it scans while it owns the scan, and ends when it has been detached.
//!
//! It must never hold the tracker's lock or the state's while it reads a process, and never touch the state once it is
//! no longer the owner.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use rustix::thread::{Pid as Tid, gettid};
use rustix::time::ClockId;

use super::meter::Meter;
use super::{FoundBy, Progress, Reading, ScanState, Shared, lock};
use crate::clock::{nanos, now_ns};
use crate::hung_reads::HungReads;
use crate::pid::Pid;
use crate::procfs::TITLE_LEN_MAX;
use crate::snapshot::Snapshot;

/// A reader needs space for one title and little else.
const STACK_BYTES: usize = 256 * 1024;

/// Removes a process from the hung reads when the detached reader returns from it, however that ends.
struct ReturnGuard<'a> {
    pid: Pid,
    progress: &'a Progress,
    hung: &'a HungReads,
}

impl Drop for ReturnGuard<'_> {
    fn drop(&mut self) {
        if self.progress.detached.load(Ordering::Relaxed) {
            self.hung.remove(self.pid);
        }
    }
}

impl Shared {
    /// Makes sure that the owner has a thread.
    pub(super) fn ensure_reader(shared: &Arc<Self>, state: &mut ScanState) {
        if state.has_reader {
            return;
        }
        let (mine, owner) = (Arc::clone(shared), state.owner);
        let name = std::thread::Builder::new().name("reader".into()).stack_size(STACK_BYTES);
        match name.spawn(move || mine.read_for(owner)) {
            Ok(_) => state.has_reader = true,
            Err(e) => {
                let waited_for = state.end(Err(format!("cannot start a reader thread: {e}")));
                shared.tell_the_end(waited_for);
            }
        }
    }

    /// A reader's main loop: scans while it is the owner, and ends when it has been detached.
    fn read_for(&self, owner: u64) {
        let (mut meter, tid) = (Meter::default(), gettid());
        loop {
            let mut state = lock(&self.state);
            while state.owner == owner && !state.running {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.owner != owner {
                return;
            }
            let taken_over = state.taken_over.take();
            let begun = std::mem::replace(&mut state.begun, true);
            drop(state);
            let done = catch_unwind(AssertUnwindSafe(|| self.scan(owner, tid, begun, taken_over)));
            let done = match done {
                Ok(None) => {
                    self.shut_down_if_dropped();
                    return;
                }
                Ok(Some(mut snapshot)) => {
                    snapshot.cost_ns = meter.cost_ns(snapshot.took_ns, || nanos(ClockId::ThreadCPUTime));
                    Ok(snapshot)
                }
                Err(_) => Err("the scan panicked".into()),
            };
            let mut state = lock(&self.state);
            if state.owner != owner {
                return;
            }
            let waited_for = state.end(done);
            // Unlock first: a woken waiter would only find it locked.
            drop(state);
            self.tell_the_end(waited_for);
        }
    }

    /// Tells whoever waits for the end of a scan. Either way is a system call, so only one is made.
    fn tell_the_end(&self, waited_for: bool) {
        if waited_for {
            self.changed.notify_all();
        } else {
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// One scan, or the rest of one. `None` if this reader was detached.
    fn scan(&self, owner: u64, tid: Tid, begun: bool, taken_over: Option<Reading>) -> Option<Snapshot> {
        let mut tracker = lock(&self.tracker);
        if let Some(reading) = taken_over {
            tracker.hung(reading.pid, reading.progress.mask.load(Ordering::Relaxed));
        }
        if !begun {
            tracker.begin(now_ns(), &|pid| self.hung.has(pid));
        }
        let (files, context) = (tracker.files(), tracker.context());
        let progress = Arc::new(Progress::default());
        let mut buf = [0; TITLE_LEN_MAX];
        while let Some(task) = tracker.next_task() {
            // It may have been queued twice, or a former scanner's reader may hang in it by now.
            if self.hung.has(task.pid) {
                tracker.leave_alone(task.pid);
                continue;
            }
            drop(tracker);
            progress.mask.store(task.mask(), Ordering::Relaxed);
            let since_ns = now_ns();
            let reading = Reading { pid: task.pid, tid, since_ns, progress: Arc::clone(&progress) };
            let mut state = lock(&self.state);
            if state.owner != owner {
                return None;
            }
            state.reading = Some(reading);
            drop(state);
            let _guard = ReturnGuard { pid: task.pid, progress: &progress, hung: &self.hung };
            let (outcome, title) = task.run(&context, &files, &progress.mask, &mut buf);
            let mut state = lock(&self.state);
            let detached = state.owner != owner;
            if !detached {
                state.reading = None;
            }
            drop(state);
            tracker = lock(&self.tracker);
            if detached {
                // The result is late, but still true.
                tracker.take(task, outcome, title, since_ns);
                return None;
            }
            tracker.on_time(task.pid);
            tracker.take(task, outcome, title, since_ns);
        }
        if let Some(why) = tracker.fallback() {
            if self.fallback.get().is_none() {
                *lock(&self.found_by) = FoundBy::of(&tracker);
            }
            self.fallback.get_or_init(|| why.to_owned());
        }
        let mut snapshot = tracker.finish();
        snapshot.took_ns = now_ns().saturating_sub(snapshot.began_ns);
        Some(snapshot)
    }
}
