//! PURE. What the tracker remembers of one process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::rechecks::Kind;
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
}

/// A process whose title some selector reads.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) file: Option<Arc<OwnedFd>>,
    pub(super) accepted: u32,
    pub(super) readings: Vec<Reading>,
    pub(super) ppid: Pid,
    pub(super) uid: Option<u32>,
    pub(super) title: Vec<u8>,
    pub(super) read_ms: u64,
    pub(super) copies: u32,
    pub(super) was_empty: bool,
}

/// What a process is, as far as is known.
#[derive(Debug)]
pub(super) enum State {
    /// Not read yet, or its file could not be read.
    Unread,
    /// Reading it is not permitted.
    Denied,
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
            Self::Unread | Self::Denied | Self::Candidate => Kind::Other,
        }
    }
}

/// One process.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) ident: u64,
    pub(super) state: State,
    /// When it came or was renamed; not known of those that were there before us.
    pub(super) came_ms: Option<u64>,
    /// When it started, as far as was read; tells a reused pid.
    pub(super) started_ms: Option<u64>,
    pub(super) due_ms: u64,
}
