//! WORLD. The one clock: `CLOCK_BOOTTIME`, corrected so that it never goes back.
//!
//! Samples, re-checks and process start times use it, because it continues while the machine is suspended. A process
//! that is restored elsewhere (checkpoint/restore) may find the kernel's clock days behind: its data would be from the
//! future, and fresh for days. So the size of a step back is added to all later readings. No other file may read
//! `CLOCK_BOOTTIME`.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::time::{ClockId, clock_gettime};

static STEADY: Steady = Steady::new();

/// Nanoseconds of the one clock.
#[must_use]
pub fn now_ns() -> u64 {
    STEADY.adjust(nanos(ClockId::Boottime))
}

/// Nanoseconds of a clock of the kernel's.
#[must_use]
pub fn nanos(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Two threads that read the clock at the same time may report their readings in the wrong order.
const SLACK_NS: u64 = 1_000_000_000;

struct Steady {
    /// The newest raw reading, and the correction added to all.
    newest_ns: AtomicU64,
    added_ns: AtomicU64,
    stepping: Mutex<()>,
}

impl Steady {
    const fn new() -> Self {
        Self { newest_ns: AtomicU64::new(0), added_ns: AtomicU64::new(0), stepping: Mutex::new(()) }
    }

    fn adjust(&self, raw_ns: u64) -> u64 {
        let newest_ns = self.newest_ns.fetch_max(raw_ns, Ordering::Relaxed);
        if raw_ns + SLACK_NS < newest_ns {
            let _alone = self.stepping.lock().unwrap_or_else(PoisonError::into_inner);
            // Another thread may have seen the same step.
            let newest_ns = self.newest_ns.load(Ordering::Relaxed);
            if raw_ns + SLACK_NS < newest_ns {
                self.added_ns.fetch_add(newest_ns - raw_ns, Ordering::Relaxed);
                self.newest_ns.store(raw_ns, Ordering::Relaxed);
            }
        }
        raw_ns + self.added_ns.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_back_is_none_and_time_goes_on_from_there() {
        const DAY: u64 = 86_400 * SLACK_NS;
        let steady = Steady::new();
        assert_eq!(steady.adjust(9 * DAY), 9 * DAY);
        assert_eq!(steady.adjust(2 * DAY), 9 * DAY);
        assert_eq!(steady.adjust(2 * DAY + 5), 9 * DAY + 5);
        assert_eq!(steady.adjust(DAY), 9 * DAY + 5, "and once more");
        assert_eq!(steady.adjust(3 * DAY), 11 * DAY + 5);
    }

    #[test]
    fn readings_that_come_in_the_other_order_are_left_as_they_are() {
        let steady = Steady::new();
        assert_eq!((steady.adjust(5_000), steady.adjust(4_990)), (5_000, 4_990));
    }
}
