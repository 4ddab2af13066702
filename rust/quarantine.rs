//! PURE. Processes that blocked a reader: which they are, and when to retry them.
//!
//! A process is retried only when no reader hangs in it, so one that blocks for ever costs only one thread. Every
//! strike doubles the wait, which starts with it. This file must never keep where readers hang now: callers know, and
//! two records of it could differ.

use std::collections::HashMap;

use crate::pid::Pid;

/// The wait after the first strike, and the longest one.
const WAIT_MS: u64 = 1_000;
const WAIT_MS_MAX: u64 = 60_000;

#[derive(Debug)]
struct Held {
    strikes: u32,
    until_ms: u64,
    mask: u32,
}

/// See the module. Times are milliseconds of one clock; masks are selectors as bits.
#[derive(Debug, Default)]
pub struct Quarantine {
    held: HashMap<Pid, Held>,
}

impl Quarantine {
    /// A reader has just been found to hang in this process.
    pub fn strike(&mut self, pid: Pid, mask: u32, now_ms: u64) {
        let held = self.held.entry(pid).or_insert(Held { strikes: 0, until_ms: 0, mask });
        held.until_ms = now_ms + (WAIT_MS << held.strikes.min(16)).min(WAIT_MS_MAX);
        held.strikes += 1;
        held.mask |= mask;
    }

    /// It was read in time.
    pub fn release(&mut self, pid: Pid) {
        if !self.held.is_empty() {
            self.held.remove(&pid);
        }
    }

    /// Whether a normal scan must leave it alone.
    #[must_use]
    pub fn holds(&self, pid: Pid) -> bool {
        !self.held.is_empty() && self.held.contains_key(&pid)
    }

    /// The processes that may be retried now, except those in which a reader `hangs`.
    #[must_use]
    pub fn due(&self, now_ms: u64, hangs: impl Fn(Pid) -> bool) -> Vec<Pid> {
        self.held.iter().filter(|(pid, h)| h.until_ms <= now_ms && !hangs(**pid)).map(|(&pid, _)| pid).collect()
    }

    /// Those that this selector accepts, as far as is known.
    pub fn of(&self, bit: u32) -> impl Iterator<Item = Pid> {
        self.held.iter().filter(move |(_, h)| h.mask & bit != 0).map(|(&pid, _)| pid)
    }

    /// Forgets processes that no longer exist.
    pub fn forget_unless(&mut self, exists: impl Fn(Pid) -> bool) {
        self.held.retain(|&pid, _| exists(pid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_again_after_its_wait_and_not_while_a_reader_hangs_there() {
        let mut q = Quarantine::default();
        q.strike(7, 1, 0);
        assert!(q.holds(7));
        assert!(q.due(1_000_000, |pid| pid == 7).is_empty());
        assert!(q.due(999, |_| false).is_empty());
        assert_eq!(q.due(1_000, |_| false), [7]);
    }

    #[test]
    fn every_strike_doubles_the_wait_up_to_a_minute() {
        let mut q = Quarantine::default();
        for (strike, wait_ms) in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000].into_iter().enumerate() {
            q.strike(7, 1, 0);
            assert!(q.due(wait_ms - 1, |_| false).is_empty(), "strike {strike}");
            assert_eq!(q.due(wait_ms, |_| false), [7], "strike {strike}");
        }
        q.release(7);
        assert!(!q.holds(7));
    }

    #[test]
    fn it_counts_for_the_selectors_whose_names_it_bears() {
        let mut q = Quarantine::default();
        q.strike(7, 0b10, 0);
        assert_eq!((q.of(0b01).count(), q.of(0b10).next()), (0, Some(7)));
        q.forget_unless(|_| true);
        assert!(q.holds(7));
        q.forget_unless(|_| false);
        assert!(!q.holds(7));
    }
}
