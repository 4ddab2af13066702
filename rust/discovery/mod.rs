//! WORLD. Which processes may be workers: three implementations, one contract.
//!
//! A discovery delivers pids and must never deliver meaning: it reads no title. All of them must lead to the same
//! counts; the parity tests compare them. The contract must never name an implementor: `choice.rs` does.

pub mod cgroup;
mod choice;
pub mod ebpf;
pub mod sweep;

pub use choice::{Choice, choose};

use std::any::Any;
use std::sync::Arc;

use crate::pid::Pid;
use crate::procfs::Procfs;

/// A process as the discovery names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its id.
    pub pid: Pid,
    /// Changes when the pid is reused; 0 if the discovery cannot tell.
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
    /// Why this discovery no longer works. The caller falls back to the sweep and says so once.
    fn look(&mut self, procfs: &mut Procfs, found: &mut Vec<Found>) -> Result<Look, String>;

    /// Whether this process will be reported as new when it takes a name that may be a worker's. If so, it needs no
    /// re-check while its name is foreign.
    fn reports_renames(&self, _pid: Pid) -> bool {
        false
    }

    /// The tracker reports that a process is gone, or can never be a worker under its name.
    fn forget(&mut self, _pid: Pid) {}

    /// What a successor takes over from it, if anything.
    fn handover(&self) -> Option<Handover> {
        None
    }

    /// How many processes besides the workers may be re-checked in every scan. Where the list is short by nature, a new
    /// worker then counts in the very next scan.
    fn rechecks_each_scan_max(&self) -> usize {
        0
    }
}
