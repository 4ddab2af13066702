//! What the tracker remembers of one process: plain data, with the files that are kept open. It must never read them.

use std::sync::Arc;

use super::rechecks::Kind;
use crate::effort::Effort;
use crate::pid::Pid;
use crate::read_task::Kept;
use crate::title::Reading;

/// One worker, to be shown to people.
#[derive(Debug, Clone)]
pub struct WorkerInfo {
    /// Its id.
    pub pid: Pid,
    /// Its effective user, if it was read.
    pub uid: Option<u32>,
    /// The beginning of its title.
    pub title: Vec<u8>,
    /// What each selector reads from it.
    pub readings: Vec<Reading>,
    /// It shows its parent's title, and is not counted.
    pub copy: bool,
    /// It hung a reader; the reading is its last one.
    pub quarantined: bool,
    /// The age of the reading, in milliseconds.
    pub age_ms: u64,
    /// For how long it has been working, by its CPU time, in milliseconds; 0 if it does not.
    pub works_for_ms: u64,
    /// The cores that it uses, in thousandths; `None` if that is not known.
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
    /// Its use of the CPU, if that is wanted and can be read.
    pub(super) effort: Option<Effort>,
}

impl Worker {
    /// Whether any selector reads in its title that it has a job.
    pub(super) fn has_a_job(&self) -> bool {
        self.readings.iter().any(Reading::has_a_job)
    }

    /// Takes its CPU time just before its title was read, and when that was. `had_a_job`: the previous title said so.
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
    /// No selector accepts its name.
    Foreign,
    /// Some selector accepts its name, but none its users, its cgroup and its title.
    Candidate,
    Worker(Box<Worker>),
}

impl State {
    /// What determines how often it is re-checked.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Worker(_) => Kind::Worker,
            Self::Foreign => Kind::Foreign,
            Self::Unread | Self::Denied(_) | Self::Candidate => Kind::Other,
        }
    }
}

/// Milliseconds since boot, if they are known. There are two of these for each process of the machine, so they take
/// eight bytes rather than sixteen.
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
    /// When it came or was renamed; unknown for processes from before the agent.
    pub(super) came: Moment,
    /// When it started, if that was read; shows whether its pid was reused.
    pub(super) started: Moment,
    pub(super) due_ms: u64,
}
