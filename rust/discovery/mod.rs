//! WORLD. Which processes may be workers: three implementations, one contract.
//!
//! A discovery delivers pids and nothing else; it never reads a title. Every one of them must
//! lead to the same counts, and the parity tests compare them.

pub mod cgroup;
mod choice;
pub mod ebpf;
pub mod sweep;

pub use choice::{Choice, choose};

use std::any::Any;
use std::sync::Arc;

use crate::pid::Pid;
use crate::procfs::Procfs;

/// A process as the discovery names it. `ident` tells a reused pid from its former owner;
/// it is 0 where the discovery cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its id.
    pub pid: Pid,
    /// Changes when the pid names another process.
    pub ident: u64,
}

/// What one look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The same processes as last time; the list is unchanged.
    Same,
    /// The list holds all processes that may be workers, ascending.
    Listed,
    /// No file descriptor was free, so nothing is known; the list is unchanged. A later scan may succeed.
    Starved,
}

/// What a discovery hands over to the one that a reload puts in its place. Only a discovery of the same kind knows
/// what is in it.
pub type Handover = Arc<dyn Any + Send + Sync>;

/// One way to find processes.
pub trait Discovery: Send {
    /// Its name in the configuration.
    fn name(&self) -> &'static str;

    /// Brings the list up to date.
    ///
    /// # Errors
    /// In words, when this way to look does not work any more; the caller falls back to a
    /// sweep and says so once.
    fn look(&mut self, procfs: &mut Procfs, found: &mut Vec<Found>) -> Result<Look, String>;

    /// Whether this process will be reported as new when it takes a name that may be a
    /// worker's. If so, it need not be looked at again while its name is foreign.
    fn reports_renames(&self, _pid: Pid) -> bool {
        false
    }

    /// The tracker reports that a process is gone, or can never be a worker under its name.
    fn forget(&mut self, _pid: Pid) {}

    /// What a successor takes over from it, if anything.
    fn handover(&self) -> Option<Handover> {
        None
    }

    /// How many processes in addition to the workers may be read again in every scan. If the list is naturally short,
    /// a new worker then counts in the very next scan.
    fn rechecks_each_scan_max(&self) -> usize {
        0
    }
}
