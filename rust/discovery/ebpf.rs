//! WORLD. Processes from the candidate map in the kernel, and those that existed before it.
//!
//! A scan reads the counters; only if they changed does it read the map, and it must never list /proc again. Processes
//! from before the programs were attached come from one listing afterwards and are kept here next to the map (as
//! seeds), never in it: a process could exit between being seen and being written. A seed is dropped when its process
//! is gone or has a name outside the filter.

mod candidates;
mod filter;
mod privileges;
mod sys;
mod unavailable;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use candidates::{Candidate, Candidates, Counters, probe};
pub use filter::{CommPrefix, MAX_PATTERNS};
pub use unavailable::Unavailable;

use super::{Discovery, Found, Handover, Look};
use crate::pid::Pid;
use crate::procfs::{Procfs, describe};
use crate::selector::Selector;

/// Where the kernel shows its types.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Size of the kernel's map: 1.3 MB of kernel memory. On a host with more candidates the sweep takes over.
const CANDIDATES_MAX: u32 = 16_384;

/// Once in this many looks, the kernel is asked whether it skipped a program; that takes three system calls.
const LOOKS_PER_CHECK: u32 = 64;

/// See the module.
pub struct Ebpf {
    /// The programs and their map. They are handed over at a reload: by then the privileges to load them are gone.
    candidates: Arc<Mutex<Candidates>>,
    /// The map as it was last read, ascending.
    map: Vec<Candidate>,
    /// Ascending, and none of them in the map.
    seeds: Vec<Pid>,
    seeded: bool,
    /// Seeds that left since the last look.
    left: HashSet<Pid>,
    counters: Option<Counters>,
    lost: u64,
    looks: u32,
}

impl Ebpf {
    /// Loads the programs, or takes them over from `former` and changes their filter.
    ///
    /// # Errors
    /// What is missing, with its remedy.
    pub fn new(
        procfs: &Procfs,
        selectors: &[Selector],
        former: Option<Handover>,
        drop_privileges: bool,
    ) -> Result<Self, Unavailable> {
        if !procfs.is_kernels() {
            return Err(Unavailable::OtherPidNamespace);
        }
        let mut prefixes: Vec<CommPrefix> = Vec::new();
        let wanted =
            selectors.iter().flat_map(|s| s.comm.literals().map(|(literal, exact)| CommPrefix::new(literal, exact)));
        for prefix in wanted {
            // Pools of one program want the same names, and the filter has room for only MAX_PATTERNS.
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
        let candidates = match former.and_then(|former| former.downcast::<Mutex<Candidates>>().ok()) {
            Some(candidates) => {
                lock(&candidates).set_prefixes(&prefixes).map_err(|e| Unavailable::Refused(e.to_string()))?;
                candidates
            }
            None => Arc::new(Mutex::new(Candidates::load(procfs.path(), &prefixes, CANDIDATES_MAX, drop_privileges)?)),
        };
        let lost = lock(&candidates).counters().map_err(|e| Unavailable::Refused(e.to_string()))?.lost;
        Ok(Self {
            candidates,
            map: Vec::new(),
            seeds: Vec::new(),
            seeded: false,
            left: HashSet::new(),
            counters: None,
            lost,
            looks: 0,
        })
    }

    /// The kernel's counters. It is an error if the kernel lost something.
    fn counters(&mut self) -> Result<Counters, String> {
        let candidates = lock(&self.candidates);
        let counters = candidates.counters().map_err(|e| e.to_string())?;
        if counters.lost != self.lost {
            return Err(format!("the kernel's map is full ({CANDIDATES_MAX} candidates)"));
        }
        self.looks += 1;
        if self.looks.is_multiple_of(LOOKS_PER_CHECK) && candidates.misses().map_err(|e| e.to_string())? > 0 {
            return Err("the kernel skipped a hook".into());
        }
        Ok(counters)
    }
}

impl Discovery for Ebpf {
    fn name(&self) -> &'static str {
        "ebpf"
    }

    fn look(&mut self, procfs: &mut Procfs, found: &mut Vec<Found>) -> Result<Look, String> {
        // The counters are read first: what changes after that moves them again.
        let counters = self.counters()?;
        if self.counters == Some(counters) && self.left.is_empty() {
            return Ok(Look::Same);
        }
        lock(&self.candidates).read(&mut self.map).map_err(|e| e.to_string())?;
        self.map.sort_unstable();
        if !self.seeded {
            procfs
                .list(&mut self.seeds)
                .map_err(|e| format!("listing {}: {}", procfs.path().display(), describe(e)))?;
            self.seeded = true;
        }
        found.clear();
        // Both are sorted, so merging them keeps the order without a sort: a host has thousands of seeds.
        let mut map = self.map.iter().map(|c| Found { pid: c.tgid, ident: c.named_ns }).peekable();
        let left = &self.left;
        self.seeds.retain(|&pid| {
            while let Some(candidate) = map.next_if(|c| c.pid < pid) {
                found.push(candidate);
            }
            // Once the map has a process, the map shows when it ends.
            let stays = map.peek().is_none_or(|c| c.pid != pid) && !left.contains(&pid);
            if stays {
                found.push(Found { pid, ident: 0 });
            }
            stays
        });
        found.extend(map);
        self.left.clear();
        self.counters = Some(counters);
        Ok(Look::Listed)
    }

    fn reports_renames(&self, pid: Pid) -> bool {
        self.map.binary_search_by_key(&pid, |c| c.tgid).is_err()
    }

    fn forget(&mut self, pid: Pid) {
        if self.seeds.binary_search(&pid).is_ok() {
            self.left.insert(pid);
        }
    }

    fn handover(&self) -> Option<Handover> {
        Some(Arc::clone(&self.candidates) as Handover)
    }
}

/// Gives up the privileges that only loading needs, when another discovery was chosen.
///
/// # Errors
/// What the kernel returned.
pub fn give_up_privileges() -> std::io::Result<()> {
    privileges::give_up(|| Ok(()))
}

fn lock(candidates: &Mutex<Candidates>) -> MutexGuard<'_, Candidates> {
    candidates.lock().unwrap_or_else(PoisonError::into_inner)
}
