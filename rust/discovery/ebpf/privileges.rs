//! WORLD. The two capabilities that loading needs: which are missing, and giving them up afterwards.
//!
//! Capabilities belong to threads: threads started later inherit what is left, older ones keep what they had. It must
//! never touch any other capability.

use rustix::io::{Errno, Result};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

const LOADING: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);

/// The capabilities that this thread lacks for loading. `CAP_SYS_ADMIN` stands for both.
pub(super) fn missing() -> Result<Vec<&'static str>> {
    let held = capabilities(None)?.effective;
    let lacks = |capability: CapabilitySet| !held.intersects(capability | CapabilitySet::SYS_ADMIN);
    Ok([(CapabilitySet::BPF, "CAP_BPF"), (CapabilitySet::PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter_map(|(capability, name)| lacks(capability).then_some(name))
        .collect())
}

/// Gives up both capabilities for good.
///
/// Kernels before 5.19 require `CAP_BPF` for look-ups, too, if unprivileged bpf is disabled. So both are made
/// ineffective first, and `look_up` is tried without them: if that is denied, `CAP_BPF` stays.
pub(super) fn give_up(look_up: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
    let held = capabilities(None)?;
    if !(held.permitted | held.inheritable).intersects(LOADING) {
        return Ok(());
    }
    set_capabilities(None, CapabilitySets { effective: held.effective - LOADING, ..held })?;
    match look_up() {
        Ok(()) => Ok(set_capabilities(None, without(held, LOADING))?),
        Err(error) if error.raw_os_error() == Some(Errno::PERM.raw_os_error()) => {
            Ok(set_capabilities(None, without(held, CapabilitySet::PERFMON))?)
        }
        Err(error) => Err(error),
    }
}

/// The kernel drops ambient capabilities that are no longer permitted or inheritable.
fn without(held: CapabilitySets, given_up: CapabilitySet) -> CapabilitySets {
    CapabilitySets {
        effective: held.effective - given_up,
        permitted: held.permitted - given_up,
        inheritable: held.inheritable - given_up,
    }
}
