//! WORLD. One scan in flight, on a reader thread that can be left behind.
//!
//! Reading a `cmdline` can block for as long as its process likes, and nothing can interrupt
//! it. So one thread does all the reading, with the tracker unlocked around every read; when
//! a read takes too long, [`Scanner::nudge`] leaves that thread behind with its process,
//! quarantines the process, and lets a new thread go on with the same scan. Threads are only
//! ever made for that, at most [`LEFT_BEHIND_MAX`] of them; beyond, reading stops until one
//! comes back, and the sample grows old, which is the truth.
//!
//! Nothing here waits for a reader except [`Scanner::scan`].

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::{Pid as Tid, gettid};
use rustix::time::ClockId;

use crate::clock::{nanos, now_ns};
use crate::discovery::ebpf::Kernel;
use crate::hung_reads::Stuck;
use crate::pid::Pid;
use crate::procfs::{TITLE_LEN_MAX, waits_for_a_cpu};
use crate::snapshot::Snapshot;
use crate::tracker::{Tracker, WorkerInfo};

mod meter;

use meter::Meter;

/// A read that takes longer is left behind. Against a process that loops over mprotect a read
/// took 18 ms at the median; on an idle host it takes some microseconds.
pub const READ_DEADLINE: Duration = Duration::from_millis(30);

/// Threads left behind at one time, by a scanner and those that it succeeded, each at a process
/// that holds its own memory lock. (One more may hang where a scanner ended in the middle of a scan.)
pub const LEFT_BEHIND_MAX: u32 = 16;

/// A reader needs room for one title and little else.
const STACK_BYTES: usize = 256 * 1024;

/// What a reader is at.
#[derive(Debug, Clone)]
struct Reading {
    pid: Pid,
    tid: Tid,
    since_ns: u64,
    progress: Arc<Progress>,
}

/// What a reader tells of itself to whoever takes over from it.
#[derive(Debug, Default)]
struct Progress {
    /// The selectors that accept the process, as far as it was read.
    mask: AtomicU32,
    /// Its process was told to be stuck.
    left: AtomicBool,
}

/// Takes a process off the stuck ones when the reader that was left behind there is back, however
/// that ends.
struct Back<'a> {
    pid: Pid,
    progress: &'a Progress,
    stuck: &'a Stuck,
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        if self.progress.left.load(Ordering::Relaxed) {
            self.stuck.remove(self.pid);
        }
    }
}

#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent; every combination can occur")]
struct Flight {
    /// The reader that owns the scan; all others were left behind.
    owner: u64,
    /// A reader thread exists for the owner's number.
    manned: bool,
    running: bool,
    /// The scan was begun by a reader that was left behind since.
    begun: bool,
    reading: Option<Reading>,
    /// What the owner's predecessor hangs at, until the owner takes it over.
    taken_over: Option<Reading>,
    /// Callers of [`Scanner::scan`], who wait for `changed` rather than for the event.
    waiting: u32,
    done: Option<Result<Snapshot, String>>,
}

struct Shared {
    tracker: Mutex<Tracker>,
    flight: Mutex<Flight>,
    /// For the reader: there is something to do. For `scan`: it is done.
    changed: Condvar,
    /// Readable when a scan is done, for event loops.
    event: OwnedFd,
    stuck: Arc<Stuck>,
    /// Of the tracker, for those who cannot wait for its lock.
    fallback: OnceLock<String>,
    found_by: Mutex<FoundBy>,
    /// The scanner is gone: whoever has the tracker's lock next lets go of all.
    dropped: AtomicBool,
}

/// What the tracker finds processes by.
#[derive(Clone)]
struct FoundBy {
    name: &'static str,
    kernel: Option<Kernel>,
}

impl FoundBy {
    fn of(tracker: &Tracker) -> Self {
        Self { name: tracker.discovery(), kernel: tracker.kernel() }
    }
}

/// See the module.
pub struct Scanner {
    shared: Arc<Shared>,
}

/// A reader that panicked has left its data as they were; going on beats stopping for good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Scanner {
    /// Wraps a tracker, in place of a `former` scanner if there is one. No thread exists until
    /// the first scan. `event` is what [`new_event`] made.
    #[must_use]
    pub fn new(mut tracker: Tracker, event: OwnedFd, former: Option<&Self>) -> Self {
        let stuck = former.map(|f| f.shared.all_stuck()).unwrap_or_default();
        for pid in stuck.all() {
            tracker.hung_before(pid, now_ns());
        }
        let found_by = Mutex::new(FoundBy::of(&tracker));
        let shared = Shared {
            tracker: Mutex::new(tracker),
            flight: Mutex::new(Flight::default()),
            changed: Condvar::new(),
            event,
            stuck,
            fallback: OnceLock::new(),
            found_by,
            dropped: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Starts a scan unless one is running. Returns at once.
    pub fn start(&self) {
        let mut flight = lock(&self.shared.flight);
        if !flight.running {
            flight.running = true;
            flight.begun = false;
            flight.done = None;
            Shared::man(&self.shared, &mut flight);
            self.shared.changed.notify_all();
        }
    }

    /// Leaves a reader behind that has been at one process for too long. Returns at once; to
    /// be called now and then while a scan runs. Whether it is worth asking again soon: not when
    /// as many have been left behind as may be.
    #[must_use]
    pub fn nudge(&self) -> bool {
        let mut flight = lock(&self.shared.flight);
        // Left behind once: until its successor reads, there is nothing else to be late.
        let overdue = flight.reading.take_if(|r| r.is_overdue() && self.left_behind() < LEFT_BEHIND_MAX);
        if let Some(reading) = overdue {
            self.shared.leave_behind(&mut flight, &reading);
            flight.taken_over = Some(reading);
            flight.manned = false;
            Shared::man(&self.shared, &mut flight);
        }
        self.left_behind() < LEFT_BEHIND_MAX
    }

    /// The finished scan's snapshot, once. `None` while it runs.
    ///
    /// # Errors
    /// The text of what broke the scan.
    #[must_use]
    pub fn take(&self) -> Option<Result<Snapshot, String>> {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.shared.event, &mut counter);
        lock(&self.shared.flight).done.take()
    }

    /// Readable when [`Self::take`] has something.
    #[must_use]
    pub fn event_fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }

    /// Scans, and waits for it. Never longer than the deadlines of all that hangs; if no
    /// reader is left, that is an error after `give_up`.
    ///
    /// # Errors
    /// The text of what broke the scan.
    pub fn scan(&self, give_up: Duration) -> Result<Snapshot, String> {
        let until_ns = now_ns() + give_up.as_nanos() as u64;
        lock(&self.shared.flight).waiting += 1;
        self.start();
        let done = loop {
            let mut flight = lock(&self.shared.flight);
            if flight.running {
                let waited = self.shared.changed.wait_timeout(flight, READ_DEADLINE);
                flight = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if let Some(done) = flight.done.take() {
                break done;
            }
            drop(flight);
            if now_ns() > until_ns {
                break Err("the readers hang".into());
            }
            let _ = self.nudge();
        };
        lock(&self.shared.flight).waiting -= 1;
        done
    }

    /// Readers that hang now.
    #[must_use]
    pub fn left_behind(&self) -> u32 {
        self.shared.stuck.count()
    }

    /// Every process with a worker's title, as of the last scan. May wait for a scan's own
    /// work, though never for a reader: not for an event loop at poll time.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerInfo> {
        lock(&self.shared.tracker).workers()
    }

    /// The programs in the kernel, for a successor to take over.
    #[must_use]
    pub fn kernel(&self) -> Option<Kernel> {
        lock(&self.shared.found_by).kernel.clone()
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
    /// Whether it takes so long because something holds it up. One that waits for a processor,
    /// on a host that has none to spare, does not hang.
    fn is_overdue(&self) -> bool {
        now_ns().saturating_sub(self.since_ns) > READ_DEADLINE.as_nanos() as u64 && !waits_for_a_cpu(self.tid)
    }
}

impl Drop for Scanner {
    fn drop(&mut self) {
        let mut flight = lock(&self.shared.flight);
        match flight.reading.take() {
            Some(reading) => self.shared.leave_behind(&mut flight, &reading),
            None => flight.owner += 1,
        }
        self.shared.changed.notify_all();
        drop(flight);
        // A reader that hangs keeps all this for as long as it hangs, and needs nothing of it. One that
        // hangs with the tracker's lock in hand lets go of it when it is back; nobody waits for that.
        self.shared.dropped.store(true, Ordering::SeqCst);
        self.shared.abandon_if_dropped();
    }
}

impl Flight {
    /// The scan is over. Whether somebody waits for that, rather than for the event.
    fn end(&mut self, done: Result<Snapshot, String>) -> bool {
        self.running = false;
        self.reading = None;
        self.done = Some(done);
        self.waiting > 0
    }
}

impl Shared {
    fn abandon_if_dropped(&self) {
        if self.dropped.load(Ordering::SeqCst) {
            match self.tracker.try_lock() {
                Ok(mut tracker) => tracker.abandon(),
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().abandon(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
    }

    /// The owner shall end when it comes back from this, and its process is stuck until then.
    fn leave_behind(&self, flight: &mut Flight, reading: &Reading) {
        reading.progress.left.store(true, Ordering::Relaxed);
        self.stuck.add(reading.pid);
        flight.owner += 1;
    }

    /// The stuck ones, that at which the owner itself hangs included.
    fn all_stuck(&self) -> Arc<Stuck> {
        let flight = lock(&self.flight);
        if let Some(reading) = flight.reading.as_ref().filter(|r| r.is_overdue()) {
            reading.progress.left.store(true, Ordering::Relaxed);
            self.stuck.add(reading.pid);
        }
        Arc::clone(&self.stuck)
    }

    /// Makes sure that the owner's number has a thread.
    fn man(shared: &Arc<Self>, flight: &mut Flight) {
        if flight.manned {
            return;
        }
        let (mine, owner) = (Arc::clone(shared), flight.owner);
        let name = std::thread::Builder::new().name("reader".into()).stack_size(STACK_BYTES);
        match name.spawn(move || mine.read_for(owner)) {
            Ok(_) => flight.manned = true,
            Err(e) => {
                let waited_for = flight.end(Err(format!("no reader thread: {e}")));
                shared.tell_the_end(waited_for);
            }
        }
    }

    /// A reader's life: scans while it is the owner, and ends when it has been left behind.
    fn read_for(&self, owner: u64) {
        let (mut meter, tid) = (Meter::default(), gettid());
        loop {
            let mut flight = lock(&self.flight);
            while flight.owner == owner && !flight.running {
                flight = self.changed.wait(flight).unwrap_or_else(PoisonError::into_inner);
            }
            if flight.owner != owner {
                return;
            }
            let taken_over = flight.taken_over.take();
            let begun = std::mem::replace(&mut flight.begun, true);
            drop(flight);
            let done = catch_unwind(AssertUnwindSafe(|| self.scan(owner, tid, begun, taken_over)));
            let done = match done {
                Ok(None) => {
                    self.abandon_if_dropped();
                    return;
                }
                Ok(Some(mut snapshot)) => {
                    snapshot.cost_ns = meter.cost_ns(snapshot.took_ns, || nanos(ClockId::ThreadCPUTime));
                    Ok(snapshot)
                }
                Err(_) => Err("the scan panicked".into()),
            };
            let mut flight = lock(&self.flight);
            if flight.owner != owner {
                return;
            }
            let waited_for = flight.end(done);
            // Unlocked first: who is told would only find it locked.
            drop(flight);
            self.tell_the_end(waited_for);
        }
    }

    /// Each of these is a system call, so only who waits is told.
    fn tell_the_end(&self, waited_for: bool) {
        if waited_for {
            self.changed.notify_all();
        } else {
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// One scan, or the rest of one. `None` when this reader was left behind.
    fn scan(&self, owner: u64, tid: Tid, begun: bool, taken_over: Option<Reading>) -> Option<Snapshot> {
        let mut tracker = lock(&self.tracker);
        if let Some(reading) = taken_over {
            tracker.hung(reading.pid, reading.progress.mask.load(Ordering::Relaxed));
        }
        if !begun {
            tracker.begin(now_ns(), &|pid| self.stuck.has(pid));
        }
        let (files, context) = (tracker.files(), tracker.context());
        let progress = Arc::new(Progress::default());
        let mut buf = [0; TITLE_LEN_MAX];
        while let Some(job) = tracker.next_job() {
            // It may have been queued twice, or hang a former scanner's reader by now.
            if self.stuck.has(job.pid) {
                tracker.leave_alone(job.pid);
                continue;
            }
            drop(tracker);
            progress.mask.store(job.mask(), Ordering::Relaxed);
            let since_ns = now_ns();
            let reading = Reading { pid: job.pid, tid, since_ns, progress: Arc::clone(&progress) };
            let mut flight = lock(&self.flight);
            if flight.owner != owner {
                return None;
            }
            flight.reading = Some(reading);
            drop(flight);
            let _back = Back { pid: job.pid, progress: &progress, stuck: &self.stuck };
            let (outcome, title) = job.run(&context, &files, &progress.mask, &mut buf);
            let mut flight = lock(&self.flight);
            let left_behind = flight.owner != owner;
            if !left_behind {
                flight.reading = None;
            }
            drop(flight);
            tracker = lock(&self.tracker);
            if left_behind {
                // What it brought is late, and true all the same.
                tracker.take(job, outcome, title, since_ns);
                return None;
            }
            tracker.on_time(job.pid);
            tracker.take(job, outcome, title, since_ns);
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

/// What becomes readable when a scan is done.
///
/// # Errors
/// When no file descriptor is to be had.
pub fn new_event() -> std::io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?)
}

/// Makes the table of open files large enough at once. Growing it later, with threads about,
/// waits for a grace period of the kernel's.
pub fn reserve_fds(kept_max: usize) {
    let event = eventfd(0, EventfdFlags::CLOEXEC);
    if let (Ok(fd), Ok(highest)) = (event, i32::try_from(kept_max)) {
        // The duplicate is closed at once; the table keeps its size.
        drop(rustix::io::fcntl_dupfd_cloexec(&fd, highest));
    }
}
