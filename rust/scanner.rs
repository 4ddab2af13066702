//! WORLD. One scan at a time, on a reader thread that can be detached.
//!
//! Reading a `cmdline` can block for as long as its process likes, and nothing can interrupt it. So one thread does
//! all the reading, with the tracker unlocked around every read. When a read takes too long,
//! [`Scanner::check_deadline`] detaches that thread, quarantines the process, and lets a new thread continue the same
//! scan. Threads are only created for that, at most [`HUNG_READERS_MAX`] of them; beyond that, reading stops until
//! one returns, and the sample grows old, which is the truth.
//!
//! This file is the callers' side and the state that both sides share; `reader.rs` is what runs on the thread. Nothing
//! here may wait for a reader, except [`Scanner::scan`].

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::Pid as Tid;

use crate::clock::now_ns;
use crate::discovery::Handover;
use crate::hung_reads::HungReads;
use crate::pid::Pid;
use crate::procfs::waits_for_a_cpu;
use crate::snapshot::Snapshot;
use crate::tracker::{Tracker, WorkerInfo};

mod meter;
mod reader;

/// A reader whose read takes longer is detached. From a process that loops over mprotect the median read took 18 ms;
/// on an idle host it takes a few microseconds.
pub const READ_DEADLINE: Duration = Duration::from_millis(30);

/// Threads detached at the same time, by a scanner and its predecessors, each in a process that holds its own memory
/// lock. (One more may hang if a scanner ended in the middle of a scan.)
pub const HUNG_READERS_MAX: u32 = 16;

/// What a reader is reading.
#[derive(Debug, Clone)]
struct Reading {
    pid: Pid,
    tid: Tid,
    since_ns: u64,
    progress: Arc<Progress>,
}

/// What a reader shares with whoever detaches it, and so with the reader that takes over from it.
#[derive(Debug, Default)]
struct Progress {
    /// The selectors that accept the process, as far as it was read.
    mask: AtomicU32,
    /// The reader hangs, and its process is among the hung reads.
    detached: AtomicBool,
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent; every combination can occur")]
struct ScanState {
    /// The reader that owns the scan; all others were detached.
    owner: u64,
    /// A reader thread exists for the owner's number.
    has_reader: bool,
    running: bool,
    /// The scan was started by a reader that has been detached since.
    begun: bool,
    reading: Option<Reading>,
    /// The process in which the owner's predecessor hangs, until the owner takes over.
    taken_over: Option<Reading>,
    /// Callers of [`Scanner::scan`], who wait for `changed` rather than for the event.
    waiting: u32,
    done: Option<Result<Snapshot, String>>,
}

struct Shared {
    tracker: Mutex<Tracker>,
    state: Mutex<ScanState>,
    /// For the reader: there is something to do. For `scan`: it is done.
    changed: Condvar,
    /// Readable when a scan is done, for event loops.
    event: OwnedFd,
    hung: Arc<HungReads>,
    /// A copy of the tracker's state, for callers that cannot wait for its lock.
    fallback: OnceLock<String>,
    found_by: Mutex<FoundBy>,
    /// The scanner is gone: the next owner of the tracker's lock releases everything.
    dropped: AtomicBool,
}

/// How the tracker finds processes.
#[derive(Clone)]
struct FoundBy {
    name: &'static str,
    handover: Option<Handover>,
}

impl FoundBy {
    fn of(tracker: &Tracker) -> Self {
        Self { name: tracker.discovery(), handover: tracker.handover() }
    }
}

/// See the module.
pub struct Scanner {
    shared: Arc<Shared>,
}

/// A reader that panicked has not changed its data; continuing beats stopping for good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scanner {
    /// Wraps a tracker, in place of a `former` scanner if there is one. No thread exists until
    /// the first scan. `event` is what [`new_event`] made.
    #[must_use]
    pub fn new(mut tracker: Tracker, event: OwnedFd, former: Option<&Self>) -> Self {
        let hung = former.map(|f| f.shared.all_hung()).unwrap_or_default();
        for pid in hung.all() {
            tracker.hung_before(pid, now_ns());
        }
        let found_by = Mutex::new(FoundBy::of(&tracker));
        let shared = Shared {
            tracker: Mutex::new(tracker),
            state: Mutex::new(ScanState::default()),
            changed: Condvar::new(),
            event,
            hung,
            fallback: OnceLock::new(),
            found_by,
            dropped: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts a scan unless one is running. Returns at once.
    pub fn start(&self) {
        let mut state = lock(&self.shared.state);
        if !state.running {
            state.running = true;
            state.begun = false;
            state.done = None;
            Shared::ensure_reader(&self.shared, &mut state);
            self.shared.changed.notify_all();
        }
    }

    /// Detaches a reader that has been reading one process for too long. Returns at once; call it now and then while
    /// a scan runs. Returns whether to call it again soon: not if no more readers may be detached.
    #[must_use]
    pub fn check_deadline(&self) -> bool {
        let mut state = lock(&self.shared.state);
        // `take_if`: a reader that has been detached is not late again.
        let overdue = state.reading.take_if(|r| r.is_overdue() && self.hung_readers() < HUNG_READERS_MAX);
        if let Some(reading) = overdue {
            self.shared.detach_reader(&mut state, &reading);
            state.taken_over = Some(reading);
            state.has_reader = false;
            Shared::ensure_reader(&self.shared, &mut state);
        }
        self.hung_readers() < HUNG_READERS_MAX
    }

    /// The snapshot of the finished scan, once. `None` while it runs.
    ///
    /// # Errors
    /// What broke the scan.
    #[must_use]
    pub fn take(&self) -> Option<Result<Snapshot, String>> {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.shared.event, &mut counter);
        lock(&self.shared.state).done.take()
    }

    /// Readable when [`Self::take`] has something.
    #[must_use]
    pub fn event_fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }

    /// Scans, and waits for the result: at most until the deadlines of everything that hangs are over, or, if no more
    /// readers may be detached, until `give_up` is over.
    ///
    /// # Errors
    /// What broke the scan.
    pub fn scan(&self, give_up: Duration) -> Result<Snapshot, String> {
        let until_ns = now_ns() + give_up.as_nanos() as u64;
        lock(&self.shared.state).waiting += 1;
        self.start();
        let done = loop {
            let mut state = lock(&self.shared.state);
            if state.running {
                let waited = self.shared.changed.wait_timeout(state, READ_DEADLINE);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if let Some(done) = state.done.take() {
                break done;
            }
            drop(state);
            if now_ns() > until_ns {
                break Err("the readers hang".into());
            }
            let _ = self.check_deadline();
        };
        lock(&self.shared.state).waiting -= 1;
        done
    }

    /// How many readers hang now.
    #[must_use]
    pub fn hung_readers(&self) -> u32 {
        self.shared.hung.count()
    }

    /// Every process with a worker's title, as of the last scan. It may wait for a scan's own work, but never for a
    /// reader: do not call it on the event loop.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerInfo> {
        lock(&self.shared.tracker).workers()
    }

    /// What a successor's discovery takes over, if anything.
    #[must_use]
    pub fn handover(&self) -> Option<Handover> {
        lock(&self.shared.found_by).handover.clone()
    }

    /// The discovery in use.
    #[must_use]
    pub fn discovery(&self) -> &'static str {
        lock(&self.shared.found_by).name
    }

    /// Why the discovery is not the one it began with, as of the last scan.
    #[must_use]
    pub fn fallback(&self) -> Option<String> {
        self.shared.fallback.get().cloned()
    }
}

impl Reading {
    /// Whether the read is blocked. A reader that waits for a CPU on a busy host does not hang.
    fn is_overdue(&self) -> bool {
        now_ns().saturating_sub(self.since_ns) > READ_DEADLINE.as_nanos() as u64 && !waits_for_a_cpu(self.tid)
    }
}

impl Drop for Scanner {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        match state.reading.take() {
            Some(reading) => self.shared.detach_reader(&mut state, &reading),
            None => state.owner += 1,
        }
        self.shared.changed.notify_all();
        drop(state);
        // A hung reader would keep all this alive without needing it. One that hangs while it holds the tracker's
        // lock releases it when it returns; nobody waits for that.
        self.shared.dropped.store(true, Ordering::SeqCst);
        self.shared.shut_down_if_dropped();
    }
}

impl ScanState {
    /// The scan is over. Returns whether a caller waits for that, rather than for the event.
    fn end(&mut self, done: Result<Snapshot, String>) -> bool {
        self.running = false;
        self.reading = None;
        self.done = Some(done);
        self.waiting > 0
    }
}

impl Shared {
    fn shut_down_if_dropped(&self) {
        if self.dropped.load(Ordering::SeqCst) {
            match self.tracker.try_lock() {
                Ok(mut tracker) => tracker.shut_down(),
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().shut_down(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
    }

    /// Detaches the owner: it ends when it returns from this read, which counts as hung until then.
    fn detach_reader(&self, state: &mut ScanState, reading: &Reading) {
        reading.progress.detached.store(true, Ordering::Relaxed);
        self.hung.add(reading.pid);
        state.owner += 1;
    }

    /// The hung reads, including the owner's if it hangs.
    fn all_hung(&self) -> Arc<HungReads> {
        let state = lock(&self.state);
        if let Some(reading) = state.reading.as_ref().filter(|r| r.is_overdue()) {
            reading.progress.detached.store(true, Ordering::Relaxed);
            self.hung.add(reading.pid);
        }
        Arc::clone(&self.hung)
    }
}

/// The event that becomes readable when a scan is done.
///
/// # Errors
/// If no file descriptor is free.
pub fn new_event() -> std::io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)
}

/// Makes the table of open files large enough at once. Growing it later, when there are threads, waits for an RCU
/// grace period in the kernel.
pub fn reserve_fds(kept_max: usize) {
    let event = eventfd(0, EventfdFlags::CLOEXEC);
    if let (Ok(fd), Ok(highest)) = (event, i32::try_from(kept_max)) {
        // The duplicate is closed at once; the table keeps its size.
        drop(rustix::io::fcntl_dupfd_cloexec(&fd, highest));
    }
}
