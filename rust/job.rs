//! WORLD. One read of one process, done apart from all that is known, because it can hang.
//!
//! A job touches nothing but the files of its process. If it hangs, the thread that runs it is
//! left behind with it; see scanner.rs.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::presets::Selector;
use crate::procfs::{Files, Miss, Stat, TITLE_LEN_MAX, read_at_start};
use crate::snapshot::Pid;
use crate::title::{Reading, first_string};

/// What is the same for all jobs of a scanner.
#[derive(Debug)]
pub struct Context {
    /// The pools.
    pub selectors: Vec<Selector>,
    /// Whether users and titles are kept for people to look at.
    pub detail: bool,
}

impl Context {
    /// The selectors whose names a process bears.
    #[must_use]
    pub fn named(&self, comm: &[u8]) -> u32 {
        bits(self, |s| s.comm.matches(comm))
    }
}

/// Something to read.
#[derive(Debug)]
pub struct Job {
    /// Of this process.
    pub pid: Pid,
    /// What to read of it.
    pub kind: Kind,
}

/// What to read.
#[derive(Debug)]
pub enum Kind {
    /// A known worker's title.
    Title {
        /// Its kept file, where there is one.
        file: Option<Arc<OwnedFd>>,
        /// The selectors that accept it.
        accepted: u32,
    },
    /// A process that may be anything: name first, title only if the name fits.
    Probe {
        /// Also read when it started.
        start: bool,
    },
}

/// What a job brought.
#[derive(Debug)]
pub enum Outcome {
    /// The title is in the caller's buffer.
    Title,
    /// What a probe found.
    Probed(Probed),
    /// The process is gone.
    Gone,
    /// It must not be read.
    Denied,
    /// No file descriptor was free.
    NoFds,
}

/// What a probe found.
#[derive(Debug)]
pub struct Probed {
    /// Parent and start, where they were wanted or needed.
    pub stat: Option<Stat>,
    /// What the process is.
    pub found: Match,
}

/// What a process is.
#[derive(Debug)]
pub enum Match {
    /// Its name is in no filter.
    Foreign,
    /// Its name is, its title is not a worker's.
    Candidate,
    /// A title that some selector reads.
    Worker {
        /// Its `cmdline`, to be kept open.
        file: OwnedFd,
        /// The selectors that accept its name, user and cgroup.
        accepted: u32,
        /// What each selector reads.
        readings: Vec<Reading>,
        /// Its parent; 0 where that is not known.
        ppid: Pid,
        /// Its effective user, where that was read.
        uid: Option<u32>,
        /// Its title.
        title: Vec<u8>,
    },
}

impl From<Miss> for Outcome {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Gone => Self::Gone,
            Miss::Denied => Self::Denied,
            Miss::NoFds => Self::NoFds,
        }
    }
}

impl Job {
    /// The selectors that the process may concern, as far as is known before it is read.
    #[must_use]
    pub fn mask(&self) -> u32 {
        match self.kind {
            Kind::Title { accepted, .. } => accepted,
            Kind::Probe { .. } => u32::MAX,
        }
    }

    /// Reads. May block for as long as the target's memory lock is held. A probe sets `mask` to
    /// the selectors whose names the process bears before anything that can block.
    pub fn run<'b>(
        &self,
        context: &Context,
        files: &Files,
        mask: &AtomicU32,
        buf: &'b mut [u8; TITLE_LEN_MAX],
    ) -> (Outcome, &'b [u8]) {
        match &self.kind {
            Kind::Title { file, .. } => {
                let title = match file {
                    Some(file) => read_at_start(file, buf),
                    None => files.read(self.pid, "cmdline", buf),
                };
                title.map_or_else(|miss| (miss.into(), &[][..]), |title| (Outcome::Title, title))
            }
            Kind::Probe { start } => {
                let probed = self.probe(*start, context, files, mask, buf);
                (probed.map_or_else(Outcome::from, Outcome::Probed), &[])
            }
        }
    }

    fn probe(
        &self,
        start: bool,
        context: &Context,
        files: &Files,
        mask: &AtomicU32,
        buf: &mut [u8; TITLE_LEN_MAX],
    ) -> Result<Probed, Miss> {
        let pid = self.pid;
        let comm = files.comm(pid, buf)?;
        let named = context.named(comm);
        mask.store(named, Ordering::Relaxed);
        if named == 0 {
            let stat = start.then(|| files.stat(pid).ok()).flatten();
            return Ok(Probed { stat, found: Match::Foreign });
        }
        let file = files.open(pid, "cmdline")?;
        let title = first_string(read_at_start(&file, buf)?).to_vec();
        let readings: Vec<Reading> = (context.selectors.iter().enumerate())
            .map(|(i, s)| if named & (1 << i) == 0 { Reading::No } else { s.grammar.read(&title) })
            .collect();
        if readings.iter().all(|r| *r == Reading::No) {
            let stat = start.then(|| files.stat(pid).ok()).flatten();
            return Ok(Probed { stat, found: Match::Candidate });
        }
        let stat = files.stat(pid).ok();
        let ppid = stat.map_or_else(|| files.ppid_from_status(pid).unwrap_or(0), |s| s.ppid);
        let uid = (context.detail || context.selectors.iter().any(|s| !s.users.is_empty()))
            .then(|| files.euid(pid).ok())
            .flatten();
        let cgroups = if context.selectors.iter().any(|s| !s.cgroups.is_empty()) {
            files.cgroups(pid).unwrap_or_default()
        } else {
            Vec::new()
        };
        let accepted = named
            & bits(context, |s| {
                (s.users.is_empty() || uid.is_some_and(|uid| s.users.contains(&uid)))
                    && (s.cgroups.is_empty() || cgroups.iter().any(|c| s.in_cgroup(c)))
            });
        let readings: Vec<Reading> = (readings.into_iter().enumerate())
            .map(|(i, r)| if accepted & (1 << i) == 0 { Reading::No } else { r })
            .collect();
        let found = if readings.iter().all(|r| *r == Reading::No) {
            Match::Candidate
        } else {
            Match::Worker { file, accepted, readings, ppid, uid, title }
        };
        Ok(Probed { stat, found })
    }
}

/// The selectors for which something holds, as bits.
fn bits(context: &Context, holds: impl Fn(&Selector) -> bool) -> u32 {
    context.selectors.iter().enumerate().filter(|(_, s)| holds(s)).fold(0, |bits, (i, _)| bits | 1 << i)
}
