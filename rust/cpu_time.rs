//! WORLD. The CPU time that a process has used so far: all its threads, including those that ended.
//!
//! The kernel shows it to any user, without the process's memory lock, so reading it never hangs. This file must never
//! judge a CPU time: `effort.rs` does.

use std::os::fd::OwnedFd;

use crate::pid::Pid;
use crate::procfs::{Files, Procfs, ReadError, parse_cpu_ms, read_at_start};

/// Where CPU times are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The process's CPU clock, in nanoseconds: one system call of a microsecond. It takes a pid of
    /// our own namespace.
    Clock,
    /// `utime + stime` of /proc/PID/stat, in ticks of 10 ms: for other trees, and where CPU clocks are denied.
    Stat,
}

impl Way {
    /// The best source for the processes of this root.
    #[must_use]
    pub fn choose(procfs: &Procfs) -> Self {
        let own = rustix::process::getpid().as_raw_pid() as Pid;
        if procfs.is_ours() && clock_ns(own).is_some() { Self::Clock } else { Self::Stat }
    }

    /// The CPU time of a process in nanoseconds; `None` if it cannot be read. `stat` is its kept file.
    #[must_use]
    pub fn read_ns(self, pid: Pid, files: &Files, stat: Option<&OwnedFd>) -> Option<u64> {
        match self {
            Self::Clock => clock_ns(pid),
            Self::Stat => {
                let mut buf = [0; 1024];
                let read = match stat {
                    Some(file) => read_at_start(file, &mut buf),
                    None => files.read(pid, "stat", &mut buf),
                };
                parse_cpu_ms(read.ok()?).map(|ms| ms * 1_000_000)
            }
        }
    }

    /// The file to keep open for [`Self::read_ns`], if it needs one.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn open(self, pid: Pid, files: &Files) -> Result<Option<OwnedFd>, ReadError> {
        match self {
            Self::Clock => Ok(None),
            Self::Stat => files.open(pid, "stat").map(Some),
        }
    }
}

/// The clock of a process in nanoseconds; `None` if there is no such process, or if the system denies the
/// clocks of others (seccomp, gVisor).
fn clock_ns(pid: Pid) -> Option<u64> {
    // The kernel's CPUCLOCK_SCHED (2) of a process: include/linux/posix-timers_types.h.
    let id = (!(pid as libc::clockid_t) << 3) | 2;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime(3) takes any number, and writes at most the one timespec, which outlives the call.
    let refused = unsafe { libc::clock_gettime(id, &raw mut time) };
    (refused == 0).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn clock_and_stat_tell_the_same_of_a_process_that_works() {
        let procfs = Procfs::open(Path::new("/proc")).unwrap();
        assert_eq!(Way::choose(&procfs), Way::Clock);
        let own = std::process::id();
        let by = |way: Way| way.read_ns(own, procfs.files(), None).unwrap();
        let before = by(Way::Clock);
        while by(Way::Clock) < before + 50_000_000 {}
        let (clock, stat, later) = (by(Way::Clock), by(Way::Stat), by(Way::Clock));
        assert!(stat + 20_000_000 >= clock && stat <= later, "{clock} <= {stat} <= {later}");
    }

    #[test]
    fn nobody_has_no_clock() {
        assert_eq!(clock_ns(0x3fff_fff0), None);
    }
}
