//! WORLD. The processes in which a reader hangs now.
//!
//! A hung reader outlives the scanner that detached it. So a scanner shares this with its successors: they do not
//! read the same processes, and no process costs two readers. It must never decide when to retry: `quarantine.rs` does.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pid::Pid;

/// See the module.
#[derive(Debug, Default)]
pub struct HungReads(Mutex<HashSet<Pid>>);

impl HungReads {
    fn pids(&self) -> MutexGuard<'_, HashSet<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader hangs in this process, and was detached.
    pub fn add(&self, pid: Pid) {
        self.pids().insert(pid);
    }

    /// The reader returned from it.
    pub fn remove(&self, pid: Pid) {
        self.pids().remove(&pid);
    }

    /// Whether a reader hangs in it.
    #[must_use]
    pub fn has(&self, pid: Pid) -> bool {
        self.pids().contains(&pid)
    }

    /// All of them, in no particular order.
    #[must_use]
    pub fn all(&self) -> Vec<Pid> {
        self.pids().iter().copied().collect()
    }

    /// How many readers hang.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.pids().len() as u32
    }
}
