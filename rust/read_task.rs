//! WORLD. One read of one process, separate from all shared state, because it can hang.
//!
//! A task must never touch anything but the files of its process: if it hangs, the thread that runs it is detached (see
//! `scanner.rs`), and whatever it held would be held for as long.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cpu_time::Way;
use crate::pid::Pid;
use crate::procfs::{Files, ReadError, Stat, TITLE_LEN_MAX, read_at_start};
use crate::selector::Selector;
use crate::title::{Reading, first_string};

/// The name of a process has at most 15 bytes; that of a kernel worker may have more.
const COMM_LEN_MAX: usize = 64;

/// What is the same for all tasks of a scanner.
#[derive(Debug)]
pub struct Context {
    /// The pools.
    pub selectors: Vec<Selector>,
    /// Whether users and titles are kept, to be shown to people.
    pub detail: bool,
    /// Where CPU times are read.
    pub way: Way,
}

/// Which selectors a process belongs to. Selectors are bits.
#[derive(Debug)]
pub struct Identity {
    /// The selectors that accept its name.
    pub named: u32,
    /// Those that accept its users and cgroups, too.
    pub accepted: u32,
    /// Its effective user, if that was read.
    pub euid: Option<u32>,
}

impl Context {
    /// Which selectors a process belongs to, before its title is read. The process cannot block these reads.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn identify(&self, pid: Pid, files: &Files) -> Result<Identity, ReadError> {
        let mut buf = [0; COMM_LEN_MAX];
        let comm = files.comm(pid, &mut buf)?;
        let named = self.bits(|s| s.comm.matches(comm));
        let (accepting, euid) = self.accepting(pid, named, files)?;
        Ok(Identity { named, accepted: named & accepting, euid })
    }

    /// The selectors that accept the process's users and cgroups, among them all such of `those`; and its effective
    /// user, if that was read.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn accepting(&self, pid: Pid, those: u32, files: &Files) -> Result<(u32, Option<u32>), ReadError> {
        let by_users = self.bits(|s| !s.users.is_empty());
        let by_cgroups = self.bits(|s| !s.cgroups.is_empty());
        let wants_users = those & by_users != 0 || (self.detail && those != 0);
        let uids = if wants_users { readable(files.uids(pid))? } else { None };
        let cgroups = if those & by_cgroups != 0 { readable(files.cgroups(pid))? } else { None };
        let accepted = self.bits(|s| {
            (s.users.is_empty() || uids.is_some_and(|ids| ids.iter().all(|id| s.users.contains(id))))
                && (s.cgroups.is_empty() || cgroups.iter().flatten().any(|c| s.in_cgroup(c)))
        });
        Ok((accepted, uids.map(|[_, effective]| effective)))
    }

    /// The selectors that need the CPU time of their workers.
    #[must_use]
    pub fn wants_cpu(&self) -> u32 {
        self.bits(|s| s.cpu.now || s.cpu.cores)
    }

    /// The selectors for which something holds, as bits.
    pub(crate) fn bits(&self, holds: impl Fn(&Selector) -> bool) -> u32 {
        self.selectors.iter().enumerate().filter(|(_, s)| holds(s)).fold(0, |bits, (i, _)| bits | 1 << i)
    }
}

/// One read.
#[derive(Debug)]
pub struct ReadTask {
    /// The process.
    pub pid: Pid,
    /// What to read of it.
    pub kind: Kind,
}

/// What to read.
#[derive(Debug)]
pub enum Kind {
    /// A known worker's title.
    Title {
        /// Its kept files, if there are any.
        files: Option<Arc<Kept>>,
        /// Read its CPU time, too.
        cpu: bool,
        /// The selectors that accept it.
        accepted: u32,
    },
    /// A process that may be anything: its name, and its title only if some selector accepts it.
    Probe {
        /// Also read when it started.
        start: bool,
    },
}

/// The files of a worker that stay open.
#[derive(Debug)]
pub struct Kept {
    /// `cmdline`.
    pub title: OwnedFd,
    /// `stat`, where CPU times are read from it.
    pub stat: Option<OwnedFd>,
}

/// What a task found.
#[derive(Debug)]
pub enum Outcome {
    /// The title is in the caller's buffer.
    Title {
        /// The CPU time just before it was read, in nanoseconds, if it was wanted and could be read.
        cpu_ns: Option<u64>,
    },
    /// What a probe found.
    Probed(Probed),
    /// The process is gone.
    Gone,
    /// Reading it is denied. It may be a worker of these selectors.
    Denied(u32),
    /// No file descriptor was free.
    NoFds,
}

/// What a probe found.
#[derive(Debug)]
pub struct Probed {
    /// Parent and start, if they were wanted or needed.
    pub stat: Option<Stat>,
    /// What the process is.
    pub found: Match,
}

/// What a process is.
#[derive(Debug)]
pub enum Match {
    /// No selector accepts its name.
    Foreign,
    /// Some selector accepts its name, but none its users, its cgroup and its title.
    Candidate,
    /// A title that some selector reads.
    Worker {
        /// Its files, to keep open.
        files: Kept,
        /// The selectors that accept its name, user and cgroup.
        accepted: u32,
        /// What each selector reads.
        readings: Vec<Reading>,
        /// Its parent; 0 if that is not known.
        ppid: Pid,
        /// Its effective user, if that was read.
        uid: Option<u32>,
        /// Its title.
        title: Vec<u8>,
        /// Its CPU time in nanoseconds, if it is wanted and could be read.
        cpu_ns: Option<u64>,
    },
}

impl From<ReadError> for Outcome {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Gone => Self::Gone,
            ReadError::Denied => Self::Denied(u32::MAX),
            ReadError::NoFds => Self::NoFds,
        }
    }
}

impl ReadTask {
    /// The selectors that may accept the process, as far as is known before it is read.
    #[must_use]
    pub fn mask(&self) -> u32 {
        match self.kind {
            Kind::Title { accepted, .. } => accepted,
            Kind::Probe { .. } => u32::MAX,
        }
    }

    /// Reads. May block for as long as the target's memory lock is held. A probe sets `mask` to
    /// the selectors that accept the process before anything that can block.
    pub fn run<'b>(
        &self,
        context: &Context,
        files: &Files,
        mask: &AtomicU32,
        buf: &'b mut [u8; TITLE_LEN_MAX],
    ) -> (Outcome, &'b [u8]) {
        match &self.kind {
            Kind::Title { files: kept, cpu, accepted } => {
                // The title is read last: if a job ends in between, the title shows it and the CPU time does not count.
                let stat = kept.as_ref().and_then(|kept| kept.stat.as_ref());
                let cpu_ns = cpu.then(|| context.way.read_ns(self.pid, files, stat)).flatten();
                let title = match kept {
                    Some(kept) => read_at_start(&kept.title, &mut buf[..]),
                    None => files.read(self.pid, "cmdline", &mut buf[..]),
                };
                let title_len = match title.map(<[u8]>::len) {
                    Ok(0) => files.title_without_leader(self.pid, buf).map_or(0, <[u8]>::len),
                    Ok(len) => len,
                    Err(ReadError::Denied) => return (Outcome::Denied(*accepted), &[]),
                    Err(error) => return (error.into(), &[]),
                };
                (Outcome::Title { cpu_ns }, &buf[..title_len])
            }
            Kind::Probe { start } => match self.probe(*start, context, files, mask, buf) {
                Ok(probed) => (Outcome::Probed(probed), &[]),
                Err(ReadError::Denied) => (Outcome::Denied(mask.load(Ordering::Relaxed)), &[]),
                Err(error) => (error.into(), &[]),
            },
        }
    }

    fn probe(
        &self,
        start: bool,
        context: &Context,
        files: &Files,
        mask: &AtomicU32,
        buf: &mut [u8; TITLE_LEN_MAX],
    ) -> Result<Probed, ReadError> {
        let pid = self.pid;
        let Identity { named, accepted, euid: uid } = context.identify(pid, files)?;
        mask.store(accepted, Ordering::Relaxed);
        let other = |found| Ok(Probed { stat: start.then(|| files.stat(pid).ok()).flatten(), found });
        if named == 0 {
            return other(Match::Foreign);
        }
        if accepted == 0 {
            // The title of a process that no selector accepts is not read, because it can block the reader.
            return other(Match::Candidate);
        }
        let file = files.open(pid, "cmdline")?;
        let mut title = first_string(read_at_start(&file, &mut buf[..])?).to_vec();
        if title.is_empty() {
            title = first_string(files.title_without_leader(pid, buf).unwrap_or_default()).to_vec();
        }
        let readings: Vec<Reading> = (context.selectors.iter().enumerate())
            .map(|(i, s)| if accepted & (1 << i) == 0 { Reading::No } else { s.grammar.read(&title) })
            .collect();
        if readings.iter().all(|r| *r == Reading::No) {
            return other(Match::Candidate);
        }
        let stat = files.stat(pid).ok();
        let ppid = stat.map_or_else(|| files.ppid_from_status(pid).unwrap_or(0), |s| s.ppid);
        let wants_cpu = accepted & context.wants_cpu() != 0;
        let stat_file = if wants_cpu { readable(context.way.open(pid, files))?.flatten() } else { None };
        let cpu_ns = wants_cpu.then(|| context.way.read_ns(pid, files, stat_file.as_ref())).flatten();
        let files = Kept { title: file, stat: stat_file };
        let found = Match::Worker { files, accepted, readings, ppid, uid, title, cpu_ns };
        Ok(Probed { stat, found })
    }
}

/// No selector accepts what a process does not show. Without a free descriptor nothing is known.
fn readable<T>(read: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(ReadError::NoFds) => Err(ReadError::NoFds),
        Err(ReadError::Gone | ReadError::Denied) => Ok(None),
    }
}
