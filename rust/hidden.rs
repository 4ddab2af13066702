//! WORLD. Workers that the name filter hides: processes with a worker's title but another name.
//!
//! Call it at the start and rarely afterwards, on a separate thread: it reads the title of every process that a
//! selector's users and cgroups accept, and may hang in one for as long as that holds its memory lock. It must never
//! keep or count anything.

use std::collections::HashSet;

use crate::pid::Pid;
use crate::procfs::{Files, Procfs, ReadError, TITLE_LEN_MAX};
use crate::read_task::Context;
use crate::title::Reading;

/// The search stops after this many: one is enough for a warning.
const FOUND_MAX: usize = 100;

/// A process that has a worker's title, and a name that is not among the selectors'.
#[derive(Debug, PartialEq, Eq)]
pub struct Hidden {
    /// Its id.
    pub pid: Pid,
    /// Its name.
    pub comm: Vec<u8>,
    /// The selectors that would count it.
    pub mask: u32,
}

/// All that exist now, except forked copies.
#[must_use]
pub fn hidden_by_name(procfs: &mut Procfs, context: &Context) -> Vec<Hidden> {
    let mut pids = Vec::new();
    if procfs.list(&mut pids).is_err() {
        return Vec::new();
    }
    let (files, mut found, mut copies) = (procfs.files(), Vec::new(), HashSet::new());
    for pid in pids {
        if let Ok(Some(hidden)) = look(pid, files, context, &mut copies) {
            found.push(hidden);
            if found.len() == FOUND_MAX {
                break;
            }
        }
    }
    found.retain(|hidden| !copies.contains(&hidden.pid));
    found
}

fn look(pid: Pid, files: &Files, context: &Context, copies: &mut HashSet<Pid>) -> Result<Option<Hidden>, ReadError> {
    let mut buf = [0; 64];
    let comm = files.comm(pid, &mut buf)?;
    let foreign = context.bits(|s| !s.comm.matches(comm));
    if foreign == 0 {
        return Ok(None);
    }
    let comm = comm.to_vec();
    let accepted = foreign & context.accepting(pid, foreign, files)?.0;
    if accepted == 0 {
        return Ok(None);
    }
    let reads = |pid: Pid| -> Result<u32, ReadError> {
        let mut title = [0; TITLE_LEN_MAX];
        let title = files.read(pid, "cmdline", &mut title)?;
        Ok(context.bits(|s| s.grammar.read(title) != Reading::No))
    };
    let mask = accepted & reads(pid)?;
    if mask == 0 {
        return Ok(None);
    }
    // A job that forks leaves a child with its parent's title, and with the name of the thread that forked.
    let parent = files.stat(pid).map_or(0, |stat| stat.ppid);
    if parent > 1 && reads(parent).is_ok_and(|of_parent| of_parent & mask != 0) {
        copies.insert(pid);
    }
    Ok(Some(Hidden { pid, comm, mask }))
}
