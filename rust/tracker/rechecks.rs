//! PURE. When processes are re-checked: by time, not by scan.
//!
//! A title write raises no kernel event, so any process that is not a worker may become one. Times are milliseconds
//! of one clock. This file must never read a process itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::pid::Pid;

/// A process that came or was renamed this recently is looked at every second: a `ruby` that boots becomes `sidekiq` up
/// to a minute later.
const YOUNG_MS: u64 = 120_000;
const YOUNG_PERIOD_MS: u64 = 1_000;
/// All others are spread evenly over this time.
const OLD_PERIOD_MS: u64 = 30_000;
/// The ages of processes from before the start are determined within this time.
pub(super) const UNKNOWN_PERIOD_MS: u64 = 4_000;

/// What determines how often a process is re-checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its title is read in every scan; the re-check is for its name, user and cgroup.
    Worker,
    /// No selector accepts its name, as with most processes.
    Foreign,
    /// Anything else.
    Other,
}

/// The schedule of re-checks. A process may be rescheduled before its turn: only the newest entry counts, which the
/// caller must check.
#[derive(Debug, Default)]
pub(super) struct Rechecks {
    planned: BinaryHeap<Reverse<(u64, Pid)>>,
}

impl Rechecks {
    /// Plans a look at that moment.
    pub(super) fn plan(&mut self, pid: Pid, due_ms: u64) {
        self.planned.push(Reverse((due_ms, pid)));
    }

    /// How many plans there are, including those that no longer count.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.planned.len()
    }

    /// The next plan whose time has come.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<(u64, Pid)> {
        let &Reverse((due_ms, pid)) = self.planned.peek()?;
        (due_ms <= now_ms).then(|| {
            self.planned.pop();
            (due_ms, pid)
        })
    }
}

/// Whether a process came, or took its name, within the last two minutes.
pub(super) fn is_young(came_ms: Option<u64>, now_ms: u64) -> bool {
    came_ms.is_some_and(|came_ms| now_ms.saturating_sub(came_ms) < YOUNG_MS)
}

/// When to look at a process next. `came_ms` is when it came or was renamed, if that is known.
pub(super) fn due_ms(pid: Pid, kind: Kind, came_ms: Option<u64>, now_ms: u64) -> u64 {
    match (kind, came_ms) {
        (Kind::Worker, _) => next_turn(pid, now_ms, OLD_PERIOD_MS),
        // There are many: reading their start times would double the first scan's cost.
        (Kind::Foreign, None) => next_turn(pid, now_ms, UNKNOWN_PERIOD_MS),
        (_, Some(_)) if !is_young(came_ms, now_ms) => next_turn(pid, now_ms, OLD_PERIOD_MS),
        _ => now_ms + YOUNG_PERIOD_MS,
    }
}

/// The next turn of a process that is looked at once in a period. Turns depend on the pid
/// alone, so they stay spread evenly whatever has made many processes due at once.
fn next_turn(pid: Pid, now_ms: u64, period_ms: u64) -> u64 {
    let turn_ms = (u64::from(pid.wrapping_mul(2_654_435_769)) * period_ms) >> 32;
    let round_ms = now_ms - now_ms % period_ms + turn_ms;
    if round_ms > now_ms { round_ms } else { round_ms + period_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_come_in_their_order_and_not_before_their_time() {
        let mut rechecks = Rechecks::default();
        for (pid, due_ms) in [(7, 30), (8, 10), (9, 20)] {
            rechecks.plan(pid, due_ms);
        }
        assert_eq!((rechecks.next(9), rechecks.next(20)), (None, Some((10, 8))));
        assert_eq!((rechecks.next(20), rechecks.next(20)), (Some((20, 9)), None));
    }

    #[test]
    fn turns_are_always_ahead_and_never_more_than_a_period() {
        for pid in 1..5_000 {
            for now_ms in [0, 29_999, 30_000, 1_000_123] {
                let ahead_ms = due_ms(pid, Kind::Worker, None, now_ms) - now_ms;
                assert!((1..=OLD_PERIOD_MS).contains(&ahead_ms), "{pid} at {now_ms}: {ahead_ms}");
            }
        }
    }
}
