//! PURE. Processes that blocked a reader: which they are, and when to retry them.
//!
//! A process is retried only after the reader that hung in it has returned, so one that blocks for ever costs only
//! one thread. Every strike doubles the wait.

use std::collections::HashMap;

use crate::snapshot::Pid;

/// The wait after the first strike, and the longest one.
const WAIT_MS: u64 = 1_000;
const WAIT_MS_MAX: u64 = 60_000;

#[derive(Debug)]
struct Held {
    strikes: u32,
    until_ms: u64,
    stuck: bool,
    mask: u32,
}

impl Held {
    fn wait_from(&mut self, now_ms: u64) {
        self.until_ms = now_ms + (WAIT_MS << (self.strikes - 1).min(16)).min(WAIT_MS_MAX);
    }
}

/// See the module. Times are milliseconds of one clock; masks are selectors as bits.
#[derive(Debug, Default)]
pub struct Quarantine {
    held: HashMap<Pid, Held>,
}

impl Quarantine {
    /// A reader hangs at this process now.
    pub fn hung(&mut self, pid: Pid, mask: u32, now_ms: u64) {
        let held = self.held.entry(pid).or_insert(Held { strikes: 0, until_ms: 0, stuck: true, mask });
        held.strikes += 1;
        held.stuck = true;
        held.mask |= mask;
        held.wait_from(now_ms);
    }

    /// Readers may have returned: only those in `hangs` still hang.
    pub fn heal(&mut self, hangs: impl Fn(Pid) -> bool, now_ms: u64) {
        for (_, held) in self.held.iter_mut().filter(|(pid, held)| held.stuck && !hangs(**pid)) {
            held.stuck = false;
            held.wait_from(now_ms);
        }
    }

    /// Whether a reader hangs there, as far as is known.
    #[must_use]
    pub fn hangs(&self, pid: Pid) -> bool {
        self.held.get(&pid).is_some_and(|held| held.stuck)
    }

    /// It was read in time.
    pub fn release(&mut self, pid: Pid) {
        if !self.held.is_empty() {
            self.held.remove(&pid);
        }
    }

    /// Whether it must not be read in a normal scan.
    #[must_use]
    pub fn holds(&self, pid: Pid) -> bool {
        !self.held.is_empty() && self.held.contains_key(&pid)
    }

    /// Those that may be tried again now.
    #[must_use]
    pub fn due(&self, now_ms: u64) -> Vec<Pid> {
        self.held.iter().filter(|(_, h)| !h.stuck && h.until_ms <= now_ms).map(|(&pid, _)| pid).collect()
    }

    /// How many this selector accepts, as far as is known.
    #[must_use]
    pub fn count(&self, bit: u32) -> u32 {
        self.held.values().filter(|h| h.mask & bit != 0).count() as u32
    }

    /// Forgets processes that no longer exist. One that blocks a reader still exists.
    pub fn forget_unless(&mut self, exists: impl Fn(Pid) -> bool) {
        self.held.retain(|&pid, held| held.stuck || exists(pid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_again_only_after_its_reader_came_back() {
        let mut q = Quarantine::default();
        q.hung(7, 1, 0);
        assert!(q.holds(7) && q.due(1_000_000).is_empty());
        q.heal(|pid| pid == 7, 4_000);
        assert!(q.hangs(7) && q.due(1_000_000).is_empty());
        q.heal(|_| false, 5_000);
        assert!(q.due(5_999).is_empty());
        assert_eq!(q.due(6_000), [7]);
    }

    #[test]
    fn every_strike_doubles_the_wait_up_to_a_minute() {
        let mut q = Quarantine::default();
        for (strike, wait_ms) in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000].into_iter().enumerate() {
            q.hung(7, 1, 0);
            q.heal(|_| false, 0);
            assert!(q.due(wait_ms - 1).is_empty(), "strike {strike}");
            assert_eq!(q.due(wait_ms), [7], "strike {strike}");
        }
        q.release(7);
        assert!(!q.holds(7));
    }

    #[test]
    fn it_counts_for_the_selectors_whose_names_it_bears() {
        let mut q = Quarantine::default();
        q.hung(7, 0b10, 0);
        assert_eq!((q.count(0b01), q.count(0b10)), (0, 1));
        q.forget_unless(|_| false);
        assert!(q.holds(7), "its reader still hangs there");
    }
}
