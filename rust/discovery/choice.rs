//! WORLD. Which discovery is used, and why not a better one.
//!
//! It must never fail: the sweep always works.

use super::{Discovery, Handover, cgroup, ebpf, sweep};
use crate::procfs::Procfs;
use crate::selector::Selector;

/// The chosen discovery, and why not a better one.
pub struct Choice {
    /// The discovery to use.
    pub discovery: Box<dyn Discovery>,
    /// Better discoveries that are not available, each with the reason.
    pub refused: Vec<String>,
}

/// Chooses a discovery. `auto` means ebpf if permitted, else cgroup if configured, else sweep; the sweep replaces a
/// discovery that is configured by name and not available. `former` is what the previous discovery hands over: without
/// BPF programs in it, ebpf must load them, which needs privileges. With `drop_privileges` those are dropped
/// afterwards, whatever was chosen.
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
