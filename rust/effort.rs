//! PURE. CPU times of one worker, scan by scan -> whether it is working now, and how many cores it uses.
//!
//! A title shows the state at the last heartbeat; this shows what happened since the last scan. It must never read a
//! clock: times are passed in, in nanoseconds.

/// The shortest time over which a share is measured.
const WINDOW_NS: u64 = 200_000_000;

/// The longest such time: what an idle worker uses must not add up for ever.
const LONGEST_NS: u64 = 500_000_000;

/// This much CPU time within a window shows that a worker works: more than an idle one uses at once. A
/// scheduler of fifty periodic jobs took 26 ms where nothing was due, and a full garbage collection 24 ms.
const WORKS_NS: u64 = 60_000_000;

/// It must also be this share of a core, in percent. An idle Sidekiq took at most 0.5 % in any half second, a
/// CPU-bound job 97 % and more on a free core, and a fifth where five wait for each core.
const WORKS_PERCENT: u64 = 10;

/// Below this share of a core, in percent, a worker that was working is resting.
const RESTS_PERCENT: u64 = 10;

/// How long a worker must rest until its job counts as done: longer than a scheduler slice or the gap between two
/// jobs, shorter than the time between two polls.
const REST_NS: u64 = 400_000_000;

/// The time constant for smoothing the cores used.
const SMOOTH_NS: u64 = 1_000_000_000;

/// What is known of one worker's CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Effort {
    at_ns: u64,
    cpu_ns: u64,
    /// For how long it has rested since it worked; `None` if it does not work.
    rested_ns: Option<u64>,
    works_since_ns: u64,
    /// Thousandths of a core, over the last window, and smoothed.
    window_milli: u64,
    smooth_milli: u64,
    looks: u8,
}

impl Effort {
    /// The first look, from which the next one counts.
    pub(crate) fn new(at_ns: u64, cpu_ns: u64) -> Self {
        Self { at_ns, cpu_ns, rested_ns: None, works_since_ns: 0, window_milli: 0, smooth_milli: 0, looks: 0 }
    }

    /// Another scan. A CPU time that went back is that of another process: start again.
    pub(crate) fn look(&mut self, at_ns: u64, cpu_ns: u64) {
        if cpu_ns < self.cpu_ns || at_ns < self.at_ns {
            *self = Self::new(at_ns, cpu_ns);
            return;
        }
        let (window_ns, taken_ns) = (at_ns - self.at_ns, cpu_ns - self.cpu_ns);
        if window_ns < WINDOW_NS {
            return;
        }
        let percent = taken_ns.saturating_mul(100) / window_ns;
        let shows = taken_ns >= WORKS_NS && percent >= WORKS_PERCENT;
        if !shows && !self.works() && window_ns < LONGEST_NS {
            return; // a job that has just begun shows by the next look, with what it uses until then
        }
        self.window_milli = taken_ns.saturating_mul(1000) / window_ns;
        self.smooth(window_ns);
        self.rested_ns = match self.rested_ns {
            None if shows => {
                self.works_since_ns = self.at_ns;
                Some(0)
            }
            None => None,
            Some(_) if percent >= RESTS_PERCENT => Some(0),
            Some(rested_ns) => Some(rested_ns + window_ns).filter(|&rested_ns| rested_ns < REST_NS),
        };
        (self.at_ns, self.cpu_ns) = (at_ns, cpu_ns);
    }

    /// The title has just changed to idle: the CPU time until then was the job's.
    pub(crate) fn said_idle(&mut self, at_ns: u64, cpu_ns: u64) {
        self.rested_ns = None;
        (self.at_ns, self.cpu_ns) = (at_ns, cpu_ns);
    }

    /// Whether it works now.
    pub(crate) fn works(&self) -> bool {
        self.rested_ns.is_some()
    }

    /// For how long it has been working, in milliseconds; 0 if it does not.
    pub(crate) fn works_for_ms(&self) -> u64 {
        if self.works() { (self.at_ns - self.works_since_ns) / 1_000_000 } else { 0 }
    }

    /// As many threads as it uses cores, rounded up; at least one. 0 if it is not working.
    pub(crate) fn threads(&self) -> u32 {
        // A hundredth of a core beyond whole cores is the main thread's.
        if self.works() { (self.window_milli.saturating_sub(10).div_ceil(1000) as u32).max(1) } else { 0 }
    }

    /// The cores that it uses, in thousandths, smoothed.
    pub(crate) fn cores_milli(&self) -> u64 {
        self.smooth_milli
    }

    fn smooth(&mut self, window_ns: u64) {
        self.smooth_milli = smoothed(self.smooth_milli, self.window_milli, window_ns, self.looks > 0);
        self.looks = 1;
    }
}

/// The moving average after `before`, with `window_ns` at `new`. Without a `before` it is `new`.
pub(crate) fn smoothed(before: u64, new: u64, window_ns: u64, has_before: bool) -> u64 {
    if !has_before {
        return new;
    }
    (before * SMOOTH_NS + new * window_ns) / (SMOOTH_NS + window_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Looks half a second apart, at which so many percent of a core had been taken.
    fn after(percents: &[u64]) -> Effort {
        let (mut at_ns, mut cpu_ns) = (1000 * MS, 5000 * MS);
        let mut effort = Effort::new(at_ns, cpu_ns);
        for percent in percents {
            at_ns += 500 * MS;
            cpu_ns += 5 * percent * MS;
            effort.look(at_ns, cpu_ns);
        }
        effort
    }

    #[test]
    fn who_takes_60_ms_works_until_it_rests() {
        assert!(!after(&[]).works() && !after(&[1, 11]).works());
        assert!(after(&[12]).works() && after(&[100, 10, 10]).works());
        assert!(!after(&[100, 9]).works() && !after(&[100, 0, 0]).works());
        assert!(after(&[100, 0, 100]).works());
    }

    #[test]
    fn looks_at_nearly_one_moment_are_one_look() {
        let mut effort = after(&[0]);
        effort.look(1500 * MS + 199 * MS, 5000 * MS + 199 * MS);
        assert!(!effort.works());
        effort.look(1500 * MS + 200 * MS, 5000 * MS + 199 * MS);
        assert!(effort.works());
    }

    #[test]
    fn a_tenth_of_a_core_at_least() {
        let mut effort = after(&[0]);
        effort.look(3500 * MS, 5000 * MS + 190 * MS);
        assert!(!effort.works());
        effort.look(4000 * MS, 5000 * MS + 250 * MS);
        assert!(effort.works());
    }

    #[test]
    fn what_a_job_took_before_the_last_look_counts_for_half_a_second() {
        let mut effort = after(&[0]);
        for (ms, taken_ms) in [(250, 30), (500, 59), (750, 62)] {
            effort.look((1500 + ms) * MS, (5000 + taken_ms) * MS);
            assert!(!effort.works());
        }
        effort.look(2250 * MS, (5000 + 62 + 59) * MS);
        assert!(effort.works());
    }

    #[test]
    fn a_schedulers_bursts_are_no_job() {
        let mut effort = after(&[0]);
        for look in 1..100 {
            effort.look((1500 + 250 * look) * MS, (5000 + 26 * look.div_ceil(4)) * MS);
            assert!(!effort.works());
        }
    }

    #[test]
    fn a_short_rest_is_none() {
        let mut effort = after(&[100]);
        for tick in 1..=3 {
            effort.look(1500 * MS + tick * 100 * MS, 5500 * MS);
        }
        assert!(effort.works());
        effort.look(1900 * MS, 5500 * MS);
        assert!(!effort.works());
    }

    #[test]
    fn what_was_taken_until_the_title_said_idle_was_the_jobs() {
        let mut effort = after(&[100]);
        effort.said_idle(1600 * MS, 5600 * MS);
        assert!(!effort.works());
        effort.look(2100 * MS, 5600 * MS);
        assert!(!effort.works());
        effort.look(2600 * MS, 6000 * MS);
        assert!(effort.works());
    }

    #[test]
    fn a_time_that_goes_back_is_another_processs() {
        let mut effort = after(&[100]);
        effort.look(2000 * MS, 10 * MS);
        assert!(!effort.works());
        effort.look(2500 * MS, 500 * MS);
        assert!(effort.works());
    }

    #[test]
    fn threads_are_cores_rounded_up() {
        assert_eq!([0, 20, 100, 101, 130, 200, 350].map(|p| after(&[p]).threads()), [0, 1, 1, 1, 2, 2, 4]);
    }

    #[test]
    fn cores_are_smoothed_over_a_second() {
        assert_eq!(after(&[100]).cores_milli(), 1000);
        let after_half_a_second = after(&[0, 100]).cores_milli();
        assert!((300..500).contains(&after_half_a_second), "{after_half_a_second}");
        assert!(after(&[0, 100, 100, 100, 100, 100, 100]).cores_milli() > 900);
    }

    #[test]
    fn it_is_known_how_long_it_works() {
        assert_eq!(
            [after(&[0]), after(&[100]), after(&[100, 100]), after(&[0, 100])].map(|e| e.works_for_ms()),
            [0, 500, 1000, 500]
        );
    }
}
