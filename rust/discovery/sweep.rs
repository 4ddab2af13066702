//! WORLD. All of /proc, listed in every scan. Works everywhere and needs no privilege.
//!
//! On a quiet host the listing is skipped: the last field of /proc/loadavg is the most recently assigned pid, and
//! while it does not change, no process can have come. (Kept files reveal processes that exited.) As all others fall
//! back to it, it must never need more than the root.

use std::os::fd::OwnedFd;

use super::{Discovery, Found, Look};
use crate::pid::Pid;
use crate::procfs::{Procfs, describe, read_at_start};

/// The shortcut is not trusted for ever: a process restored by CRIU takes its old pid without changing the most
/// recently assigned one.
const LOOKS_PER_LISTING_MAX: u32 = 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Sweep {
    loadavg: Option<OwnedFd>,
    last_pid: Option<Pid>,
    settled: bool,
    looks: u32,
    pids: Vec<Pid>,
}

impl Sweep {
    /// A sweep of this root.
    #[must_use]
    pub fn new(procfs: &Procfs) -> Self {
        // The file shows the reader's own pid namespace, whatever root it is read through.
        let loadavg = if procfs.is_ours() { procfs.open_own("loadavg").filter(moves) } else { None };
        Self { loadavg, ..Self::default() }
    }

    /// Whether no process can have come since the last listing.
    ///
    /// A pid is assigned a moment before its process appears in /proc. So the number must have stayed the same over a
    /// whole scan before that means anything.
    fn nobody_came(&mut self) -> bool {
        let now = self.loadavg.as_ref().and_then(|fd| parse_last_pid(read_at_start(fd, &mut [0; 128]).ok()?));
        let same = now.is_some() && now == self.last_pid;
        let quiet = same && self.settled && self.looks < LOOKS_PER_LISTING_MAX;
        self.looks = if quiet { self.looks + 1 } else { 0 };
        self.settled = same;
        self.last_pid = now;
        quiet
    }
}

impl Discovery for Sweep {
    fn name(&self) -> &'static str {
        "sweep"
    }

    fn look(&mut self, procfs: &mut Procfs, found: &mut Vec<Found>) -> Result<Look, String> {
        if self.nobody_came() {
            return Ok(Look::Same);
        }
        procfs.list(&mut self.pids).map_err(|e| format!("listing {}: {}", procfs.path().display(), describe(e)))?;
        found.clear();
        found.extend(self.pids.iter().map(|&pid| Found { pid, ident: 0 }));
        Ok(Look::Listed)
    }
}

/// Whether the number changes when a thread of ours takes a pid. Some kernels always report 0 (gVisor).
fn moves(loadavg: &OwnedFd) -> bool {
    let last_pid = || parse_last_pid(read_at_start(loadavg, &mut [0; 128]).ok()?);
    let before = last_pid();
    let ran = std::thread::Builder::new().stack_size(64 * 1024).spawn(|| ()).is_ok_and(|thread| thread.join().is_ok());
    ran && before.is_some() && last_pid() != before
}

/// `0.00 0.01 0.05 1/123 4567` -> 4567.
fn parse_last_pid(loadavg: &[u8]) -> Option<Pid> {
    std::str::from_utf8(loadavg).ok()?.split_ascii_whitespace().nth(4)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pid_is_the_fifth_field() {
        assert_eq!(parse_last_pid(b"0.00 0.01 0.05 1/123 4567\n"), Some(4567));
        assert_eq!(parse_last_pid(b"0.00 0.01"), None);
    }

    #[test]
    fn while_no_pid_is_given_out_nothing_is_listed_from_the_third_look_on_and_never_for_long() {
        let dir = std::env::temp_dir().join(format!("busyweight-quiet-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("17")).unwrap();
        let say = |last_pid| std::fs::write(dir.join("loadavg"), format!("0 0 0 1/1 {last_pid}\n")).unwrap();
        say(17);
        let mut procfs = Procfs::open(&dir).unwrap();
        let loadavg = std::fs::File::open(dir.join("loadavg")).unwrap().into();
        let mut sweep = Sweep { loadavg: Some(loadavg), ..Sweep::default() };
        let mut looks =
            |n| -> Vec<Look> { (0..n).map(|_| sweep.look(&mut procfs, &mut Vec::new()).unwrap()).collect() };
        assert_eq!(looks(4), [Look::Listed, Look::Listed, Look::Same, Look::Same]);
        say(18);
        assert_eq!(looks(3), [Look::Listed, Look::Listed, Look::Same]);
        let quiet = looks(10 * LOOKS_PER_LISTING_MAX);
        assert!(quiet.iter().filter(|&&look| look == Look::Listed).count() >= 9, "CRIU moves no last pid");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_number_that_moves_with_no_pid_of_ours_is_not_believed() {
        let own = Procfs::open(std::path::Path::new("/proc")).unwrap().open_own("loadavg").unwrap();
        assert!(moves(&own));
        let path = std::env::temp_dir().join(format!("busyweight-loadavg-{}", std::process::id()));
        std::fs::write(&path, "0 0 0 1/1 0\n").unwrap();
        assert!(!moves(&std::fs::File::open(&path).unwrap().into()));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_tree_of_plain_files_is_always_listed() {
        let dir = std::env::temp_dir().join(format!("busyweight-sweep-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("17")).unwrap();
        std::fs::write(dir.join("loadavg"), "0 0 0 1/1 17\n").unwrap();
        let mut procfs = Procfs::open(&dir).unwrap();
        let mut sweep = Sweep::new(&procfs);
        let mut found = Vec::new();
        for _ in 0..4 {
            assert_eq!(sweep.look(&mut procfs, &mut found), Ok(Look::Listed));
            assert_eq!(found, [Found { pid: 17, ident: 0 }]);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
