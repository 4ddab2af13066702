//! WORLD. Which processes may be workers: three implementations, one contract.
//!
//! A discovery delivers pids and nothing else; it never reads a title. Every one of them must
//! lead to the same counts, and the parity tests compare them.

pub mod cgroup;
pub mod ebpf;
pub mod sweep;

use crate::pid::Pid;
use crate::procfs::Procfs;
use crate::selector::Selector;

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

    /// The programs in the kernel, for a successor to take over.
    fn shared_candidates(&self) -> Option<ebpf::SharedCandidates> {
        None
    }

    /// How many processes in addition to the workers may be read again in every scan. If the list is naturally short,
    /// a new worker then counts in the very next scan.
    fn rechecks_each_scan_max(&self) -> usize {
        0
    }
}

/// The chosen discovery, and why not a better one.
pub struct Choice {
    /// The discovery to begin with.
    pub discovery: Box<dyn Discovery>,
    /// Better discoveries that are not available, each with the reason.
    pub refused: Vec<String>,
}

/// Chooses a discovery. `auto`: ebpf when permitted, else cgroup when configured, else sweep; a discovery configured
/// by name that is not available is replaced by the sweep. `former` programs are taken over; without any, privileges
/// to load new ones are needed, and dropped afterwards if `drop_privileges`.
#[must_use]
pub fn choose(
    kind: &str,
    procfs: &Procfs,
    selectors: &[Selector],
    former: Option<ebpf::SharedCandidates>,
    drop_privileges: bool,
) -> Choice {
    let mut refused = Vec::new();
    if matches!(kind, "auto" | "ebpf") {
        match ebpf::Ebpf::new(procfs, selectors, former, drop_privileges) {
            Ok(discovery) => return Choice { discovery: Box::new(discovery), refused },
            Err(why) => refused.push(format!("ebpf: {why}")),
        }
    }
    if drop_privileges {
        if let Err(why) = ebpf::give_up_privileges() {
            refused.push(format!("dropping privileges: {why}"));
        }
    }
    if matches!(kind, "auto" | "cgroup") {
        match cgroup(procfs, selectors) {
            Ok(Some(discovery)) => return Choice { discovery: Box::new(discovery), refused },
            Ok(None) if kind == "auto" => {}
            Ok(None) => refused.push("cgroup: not every pool sets its cgroups: set workers.cgroups".into()),
            Err(why) => refused.push(format!("cgroup: {why}")),
        }
    }
    Choice { discovery: Box::new(sweep::Sweep::new(procfs)), refused }
}

/// `None` if the configuration names no cgroups.
fn cgroup(procfs: &Procfs, selectors: &[Selector]) -> Result<Option<cgroup::Cgroup>, String> {
    if selectors.iter().any(|s| s.cgroups.is_empty()) {
        return Ok(None);
    }
    let all: Vec<String> = selectors.iter().flat_map(|s| s.cgroups.iter().cloned()).collect();
    cgroup::Cgroup::new(procfs, &all).map(Some)
}
