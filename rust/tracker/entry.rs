//! What the tracker remembers of one process: plain data, with the files that are kept open.

use std::sync::Arc;

use super::rechecks::Kind;
use crate::effort::Effort;
use crate::job::Kept;
use crate::snapshot::Pid;
use crate::title::Reading;

/// One worker, for people to look at.
#[derive(Debug, Clone)]
pub struct WorkerInfo {
    /// Its id.
    pub pid: Pid,
    /// Its effective user, where it was read.
    pub uid: Option<u32>,
    /// The beginning of its title.
    pub title: Vec<u8>,
    /// What each selector reads from it.
    pub readings: Vec<Reading>,
    /// It shows its parent's title, and is not counted.
    pub copy: bool,
    /// It hung a reader; the reading is its last.
    pub quarantined: bool,
    /// The age of the reading, in milliseconds.
    pub age_ms: u64,
    /// For how long it has been working, by its CPU time, in milliseconds; 0 if it does not.
    pub works_for_ms: u64,
    /// The cores that it takes, in thousandths; `None` where that is not known.
    pub cores_milli: Option<u64>,
}

/// A process whose title some selector reads.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) files: Option<Arc<Kept>>,
    pub(super) accepted: u32,
    pub(super) readings: Vec<Reading>,
    pub(super) ppid: Pid,
    pub(super) uid: Option<u32>,
    pub(super) title: Vec<u8>,
    pub(super) read_ms: u64,
    pub(super) copies: u32,
    pub(super) was_empty: bool,
    /// What it takes of the CPU, where that is wanted and told.
    pub(super) effort: Option<Effort>,
}

impl Worker {
    /// Whether its title says so, to any selector.
    pub(super) fn has_a_job(&self) -> bool {
        self.readings.iter().any(Reading::has_a_job)
    }

    /// Takes the CPU time until just before its title was read, and when that was. `had_a_job`: the title
    /// before this one said so.
    pub(super) fn take_cpu(&mut self, cpu: Option<(u64, u64)>, had_a_job: bool) {
        let Some((at_ns, cpu_ns)) = cpu else {
            self.effort = None;
            return;
        };
        let ended = had_a_job && !self.has_a_job();
        let effort = self.effort.get_or_insert_with(|| Effort::new(at_ns, cpu_ns));
        effort.look(at_ns, cpu_ns);
        if ended {
            effort.said_idle(at_ns, cpu_ns);
        }
    }
}

/// What a process is, as far as is known.
#[derive(Debug)]
pub(super) enum State {
    /// Not read yet, or its file could not be read.
    Unread,
    /// Reading it is not permitted; it may be a worker of these selectors.
    Denied(u32),
    /// Its name is in no filter.
    Foreign,
    /// Its name is; its users, its cgroup or its title are not a worker's.
    Candidate,
    Worker(Box<Worker>),
}

impl State {
    /// How often it is looked at.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Worker(_) => Kind::Worker,
            Self::Foreign => Kind::Foreign,
            Self::Unread | Self::Denied(_) | Self::Candidate => Kind::Other,
        }
    }
}

/// Milliseconds after boot, where they are known. Of these there are two for each process of the machine, so
/// they take eight bytes and not sixteen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) const UNKNOWN: Self = Self(u64::MAX);

    pub(super) fn at(ms: u64) -> Self {
        Self(ms)
    }

    pub(super) fn ms(self) -> Option<u64> {
        (self != Self::UNKNOWN).then_some(self.0)
    }
}

/// One process.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) ident: u64,
    pub(super) state: State,
    /// When it came or was renamed; not known of those that were there before us.
    pub(super) came: Moment,
    /// When it started, as far as was read; tells a reused pid.
    pub(super) started: Moment,
    pub(super) due_ms: u64,
}
