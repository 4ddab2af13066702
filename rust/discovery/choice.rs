//! WORLD. Which discovery is used, and why not a better one.

use super::{Discovery, Handover, cgroup, ebpf, sweep};
use crate::procfs::Procfs;
use crate::selector::Selector;

/// The chosen discovery, and why not a better one.
pub struct Choice {
    /// The discovery to begin with.
    pub discovery: Box<dyn Discovery>,
    /// Better discoveries that are not available, each with the reason.
    pub refused: Vec<String>,
}

/// Chooses a discovery. `auto`: ebpf when permitted, else cgroup when configured, else sweep; a discovery configured
/// by name that is not available is replaced by the sweep. `former` is what the discovery before this one hands over; if
/// that is no BPF programs, `ebpf` must load them, which needs privileges. `drop_privileges`: they are dropped afterwards.
#[must_use]
pub fn choose(
    kind: &str,
    procfs: &Procfs,
    selectors: &[Selector],
    former: Option<Handover>,
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
