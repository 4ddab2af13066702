//! PURE. Readings -> counts. Forked copies are dropped here, for every discovery.
//!
//! It must never know where a reading came from, nor what the counts will be used for.

use crate::pid::Pid;
use crate::title::Reading;

/// One process whose title matched a selector.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Its id.
    pub pid: Pid,
    /// Its parent when its title first matched; 0 if that is not known.
    pub ppid: Pid,
    /// What its title said last.
    pub reading: Reading,
    /// On how many threads it works now, whatever its title says; 0 if it rests, or if that is not asked.
    pub works: u32,
    /// The cores that it uses, in thousandths.
    pub cores_milli: u64,
    /// Its title was read in this scan, or could have been: it is not quarantined.
    pub readable: bool,
    /// How old the reading is, in milliseconds.
    pub age_ms: u64,
    /// In: it was a copy before. Out: it is one. A copy stays one when its parent is gone.
    pub copy: bool,
}

/// What one selector's processes add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Workers with a reading, including the old ones of quarantined workers.
    pub workers: u32,
    /// Workers that can be read now.
    pub readable: u32,
    /// Workers with at least one job: by their titles, or because they work now.
    pub busy_processes: u32,
    /// Threads with a job, over all workers: the sum of N, and the threads on which those work whose title says 0.
    pub busy_threads: u64,
    /// All threads (the sum of M).
    pub total_threads: u64,
    /// Workers counted busy because they work now, though their title says idle.
    pub untitled: u32,
    /// The cores that all workers use, in thousandths.
    pub cores_milli: u64,
    /// The cores that other cgroups use, in thousandths.
    pub others_milli: u64,
    /// Workers that take no more jobs.
    pub stopping: u32,
    /// Processes that show their parent's title: not workers.
    pub copies: u32,
    /// Titles of the program that show no valid count.
    pub unparsable: u32,
    /// Processes that blocked a reader, and wait for a retry.
    pub quarantined: u32,
    /// Possible workers that were never read: the agent may not, or a reader hung there.
    pub unread: u32,
    /// The age of the oldest reading counted, in milliseconds.
    pub oldest_ms: u64,
}

/// All that one scan found.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Pid 1's name could be read, and no read failed for lack of a file descriptor: what was not seen does not
    /// exist.
    pub visible: bool,
    /// The whole host is visible, or a worker was seen: if there is no worker, the host has none. Not so in a
    /// separate pid namespace, which shows only what is in it.
    pub whole: bool,
    /// One per selector, in their order.
    pub pools: Vec<Counts>,
    /// The discovery in use.
    pub discovery: &'static str,
    /// Processes that the discovery knows of.
    pub processes: u32,
    /// Processes read in this scan because they were new or due to be looked at again.
    pub rechecked: u32,
    /// Processes that exited while they were being read.
    pub vanished: u32,
    /// Processes that the agent may not read.
    pub unreadable: u32,
    /// Workers whose CPU time is needed but cannot be read; only their titles count.
    pub cpu_untold: u32,
    /// When the scan began, in nanoseconds of `CLOCK_BOOTTIME`.
    pub began_ns: u64,
    /// How long it took, in nanoseconds.
    pub took_ns: u64,
    /// What it cost of one core, in nanoseconds; at most `took_ns`.
    pub cost_ns: u64,
}

/// Adds up one selector's processes, which must be sorted by pid, and marks the copies.
///
/// A job that forks leaves a child that shows its parent's title, frozen at the moment of the
/// fork. So a match whose parent is itself a match is not a worker.
pub fn count(members: &mut [Member]) -> Counts {
    let mut counts = Counts::default();
    let pids: Vec<Pid> = members.iter().map(|m| m.pid).collect();
    for m in members {
        m.copy |= m.ppid != m.pid && pids.binary_search(&m.ppid).is_ok();
        match m.reading {
            _ if m.copy => counts.copies += 1,
            Reading::No => {}
            Reading::Unparsable => counts.unparsable += 1,
            Reading::Worker { busy, total, stopping } => {
                counts.workers += 1;
                counts.readable += u32::from(m.readable);
                // A title that says busy is believed: the job may wait for a database.
                let untitled = if busy == 0 { m.works.min(total) } else { 0 };
                counts.untitled += u32::from(untitled > 0);
                counts.busy_processes += u32::from(busy > 0 || untitled > 0);
                counts.busy_threads += u64::from(busy + untitled);
                counts.cores_milli += m.cores_milli;
                counts.total_threads += u64::from(total);
                counts.stopping += u32::from(stopping);
                counts.oldest_ms = counts.oldest_ms.max(m.age_ms);
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(pid: Pid, ppid: Pid, busy: u32) -> Member {
        let reading = Reading::Worker { busy, total: 5, stopping: false };
        Member { pid, ppid, reading, works: 0, cores_milli: 0, readable: true, age_ms: 0, copy: false }
    }

    #[test]
    fn workers_add_up() {
        let mut all = [member(10, 1, 3), member(11, 1, 0), member(12, 1, 5)];
        all[2].readable = false;
        all[2].age_ms = 70;
        let counts = count(&mut all);
        assert_eq!((counts.workers, counts.readable, counts.busy_processes), (3, 2, 2));
        assert_eq!((counts.busy_threads, counts.total_threads, counts.oldest_ms), (8, 15, 70));
    }

    #[test]
    fn who_works_counts_beside_what_titles_say_and_never_for_more_threads_than_it_has() {
        let mut all = [member(10, 1, 3), member(11, 1, 0), member(12, 1, 0), member(13, 12, 0)];
        for (m, works) in all.iter_mut().zip([1, 2, 9, 1]) {
            (m.works, m.cores_milli) = (works, 1500);
        }
        let counts = count(&mut all);
        assert_eq!((counts.busy_processes, counts.untitled, counts.busy_threads), (3, 2, 3 + 2 + 5));
        assert_eq!((counts.cores_milli, counts.copies), (4500, 1));
    }

    #[test]
    fn a_match_whose_parent_matches_is_a_copy_and_so_is_its_child() {
        let mut all = [member(5, 40, 1), member(40, 1, 1), member(50, 5, 1)];
        let counts = count(&mut all);
        assert_eq!((counts.workers, counts.copies, counts.busy_processes), (1, 2, 1));
    }

    #[test]
    fn a_copy_stays_a_copy_when_its_parent_is_gone() {
        let mut all = [member(40, 1, 1), member(41, 40, 1)];
        count(&mut all);
        let mut orphan = [all[1]];
        assert_eq!(count(&mut orphan).workers, 0);
    }

    #[test]
    fn an_unparsable_title_is_a_match_but_no_worker() {
        let mut all = [member(40, 1, 1), member(41, 40, 1)];
        all[0].reading = Reading::Unparsable;
        let counts = count(&mut all);
        assert_eq!((counts.workers, counts.unparsable, counts.copies), (0, 1, 1));
    }

    #[test]
    fn a_process_that_claims_to_be_its_own_parent_still_counts() {
        assert_eq!(count(&mut [member(7, 7, 1)]).workers, 1);
    }
}
