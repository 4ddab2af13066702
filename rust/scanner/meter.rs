//! PURE. What scans cost, as a share of one core: by the wall clock for cheap scans, by CPU time for others.
//!
//! It must never read a clock itself: a scan that needs no system call for that shall make none.

use std::time::Duration;

/// A scan that took less is charged by the wall clock, which needs no system call.
const CHEAP: Duration = Duration::from_millis(2);

/// On a busy host the wall clock charges too much, and the next expensive scan is charged that much less. To bound
/// that, the CPU time is read whenever cheap scans have taken this long together.
const CREDIT_MAX: Duration = Duration::from_millis(100);

/// What scans cost. Reading a thread's CPU time is a system call, so a cheap scan is charged by the wall clock, which
/// is never less.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// The thread's CPU time when it was last asked for, and what was charged since.
    cpu_ns: u64,
    charged_ns: u64,
}

impl Meter {
    /// The cost of a scan that took so long by the wall clock, in nanoseconds of one core.
    pub(super) fn cost_ns(&mut self, took_ns: u64, thread_cpu_ns: impl Fn() -> u64) -> u64 {
        let cheap = took_ns <= CHEAP.as_nanos() as u64;
        if cheap && self.charged_ns <= CREDIT_MAX.as_nanos() as u64 {
            self.charged_ns += took_ns;
            return took_ns;
        }
        let now_ns = thread_cpu_ns();
        let cost_ns = took_ns.min((now_ns - self.cpu_ns).saturating_sub(self.charged_ns));
        *self = Self { cpu_ns: now_ns, charged_ns: 0 };
        if cheap { took_ns } else { cost_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_scan_is_not_charged_for_the_cheap_ones_before_it() {
        let mut meter = Meter::default();
        assert_eq!(meter.cost_ns(5_000_000, || 4_000_000), 4_000_000);
        for _ in 0..100 {
            assert_eq!(meter.cost_ns(1_000_000, || panic!("asked for nothing")), 1_000_000);
        }
        assert_eq!(meter.cost_ns(1_800_000_000, || 106_000_000), 2_000_000);
        assert_eq!(meter.cost_ns(3_000_000, || 109_500_000), 3_000_000, "no more than it took");
        assert_eq!(meter.cost_ns(1_000_000, || panic!("asked for nothing")), 1_000_000);
        assert_eq!(meter.cost_ns(9_000_000, || 110_000_000), 0, "less than was charged already");
    }

    #[test]
    fn a_long_scan_is_let_off_no_more_than_some_cheap_ones() {
        let mut meter = Meter::default();
        let asked = std::cell::Cell::new(0);
        for _ in 0..10_000 {
            // They took a millisecond each on a busy host, and used nothing.
            assert_eq!(meter.cost_ns(1_000_000, || (asked.set(asked.get() + 1), 0).1), 1_000_000);
        }
        assert!((90..100).contains(&asked.get()));
        assert!(meter.cost_ns(2_000_000_000, || 1_000_000_000) >= 899_000_000);
    }
}
