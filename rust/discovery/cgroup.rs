//! WORLD. The processes of configured cgroup subtrees, from their `cgroup.procs` files.
//!
//! No privilege is needed, and nobody outside the units can put a process there. The files
//! are kept open, so a scan costs one read per cgroup whatever runs elsewhere; the kernel
//! tells by inotify when cgroups come and go below the configured ones.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, inotify};
use rustix::io::Errno;

use super::{Discovery, Found, Look};
use crate::procfs::Procfs;
use crate::snapshot::Pid;

/// The kernel returns at most one page per read of a `cgroup.procs`, and fills it as far as
/// whole lines fit. So a read that leaves more room than a line needs has reached the end.
const PAGE: usize = 4096;
const LINE_LEN_MAX: usize = 16;

/// Small subtrees are read whole in every scan; see [`Discovery::rechecks_each_scan_max`].
const RECHECKS_EACH_SCAN_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Cgroup {
    roots: Vec<PathBuf>,
    changes: OwnedFd,
    procs: Vec<OwnedFd>,
    /// Something could not be opened or watched: walk again.
    incomplete: bool,
    pids: Vec<Pid>,
}

impl Cgroup {
    /// The subtrees at these absolute paths below every cgroup mount that has names for
    /// them: the v2 hierarchy, and systemd's own v1 hierarchy.
    ///
    /// # Errors
    /// In words, when there is no such mount or the pids there are not those of the root.
    pub fn new(procfs: &Procfs, cgroups: &[String]) -> Result<Self, String> {
        if !procfs.is_ours() {
            return Err(format!(
                "{} does not show this pid namespace, which cgroup.procs does",
                procfs.path().display()
            ));
        }
        let mounts = std::fs::read(procfs.path().join("self/mountinfo")).unwrap_or_default();
        let mounts = parse_mounts(&String::from_utf8_lossy(&mounts));
        if mounts.is_empty() {
            return Err("no cgroup2 or systemd cgroup hierarchy is mounted".into());
        }
        let roots = mounts.iter().flat_map(|m| cgroups.iter().map(|c| m.join(c.trim_start_matches('/')))).collect();
        let changes = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
            .map_err(|e| format!("inotify: {e}"))?;
        Ok(Self { roots, changes, procs: Vec::new(), incomplete: true, pids: Vec::new() })
    }

    /// Opens every `cgroup.procs` below the roots anew. Watches come first, so that a cgroup
    /// made meanwhile is an event for the next look.
    fn walk(&mut self) {
        self.procs.clear();
        self.incomplete = false;
        let (mut stack, absent): (Vec<_>, Vec<_>) = self.roots.iter().cloned().partition(|root| root.is_dir());
        for root in absent {
            // Its nearest ancestor tells when it, or what leads to it, comes.
            let there = root.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
            let events = inotify::WatchFlags::CREATE | inotify::WatchFlags::MASK_ADD;
            let watched = inotify::add_watch(&self.changes, there, events).is_ok();
            self.incomplete |= !watched || root.is_dir();
        }
        while let Some(dir) = stack.pop() {
            let events = inotify::WatchFlags::CREATE
                | inotify::WatchFlags::DELETE
                | inotify::WatchFlags::MOVE
                | inotify::WatchFlags::DELETE_SELF
                | inotify::WatchFlags::ONLYDIR
                | inotify::WatchFlags::MASK_ADD;
            let watched = inotify::add_watch(&self.changes, &dir, events).is_ok();
            match rustix::fs::open(dir.join("cgroup.procs"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(fd) if watched => self.procs.push(fd),
                // Gone again, or out of descriptors or watches: look again next time.
                _ => self.incomplete = true,
            }
            let below = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            stack.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
        }
    }

    /// Whether cgroups came or went since the last look. One system call when not.
    fn changed(&mut self) -> bool {
        let mut any = false;
        let mut buf = [0u8; PAGE];
        while rustix::io::read(&self.changes, &mut buf).is_ok_and(|n| n > 0) {
            any = true;
        }
        any || self.incomplete
    }

    fn read_all(&mut self) -> Result<(), Errno> {
        self.pids.clear();
        let mut buf = [0u8; PAGE];
        for fd in &self.procs {
            let mut at = 0;
            loop {
                let n = match rustix::io::pread(fd, &mut buf, at as u64) {
                    Ok(n) => n,
                    // A threaded cgroup has no processes of its own; its domain lists them.
                    Err(Errno::OPNOTSUPP) => 0,
                    Err(e) => return Err(e),
                };
                self.pids.extend(parse_pids(&buf[..n]));
                at += n;
                if n + LINE_LEN_MAX < PAGE {
                    break;
                }
            }
        }
        self.pids.sort_unstable();
        self.pids.dedup();
        Ok(())
    }
}

impl Discovery for Cgroup {
    fn name(&self) -> &'static str {
        "cgroup"
    }

    fn look(&mut self, _procfs: &mut Procfs, found: &mut Vec<Found>) -> Result<Look, String> {
        if self.changed() {
            self.walk();
        }
        // A cgroup that was removed since says ENODEV; the rest of the tree is still there.
        if self.read_all().is_err() {
            self.walk();
            let _ = self.read_all();
        }
        found.clear();
        found.extend(self.pids.iter().map(|&pid| Found { pid, ident: 0 }));
        Ok(Look::Listed)
    }

    fn rechecks_each_scan_max(&self) -> usize {
        RECHECKS_EACH_SCAN_MAX
    }
}

/// Lines of decimal pids; 0 stands for a process outside our pid namespace.
fn parse_pids(text: &[u8]) -> impl Iterator<Item = Pid> {
    text.split(|&b| b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).filter(|&pid| pid != 0)
}

/// The mount points of the cgroup2 and the systemd hierarchies (proc(5), mountinfo).
fn parse_mounts(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split(' ');
            let (kind, options) = (right.next()?, right.nth(1)?);
            let ours = kind == "cgroup2" || (kind == "cgroup" && options.split(',').any(|o| o == "name=systemd"));
            ours.then(|| left.split(' ').nth(4)).flatten().map(PathBuf::from)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_those_with_process_names_to_them() {
        let text = "30 25 0:26 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw\n\
                    31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup none rw,xattr,name=systemd\n\
                    32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let expected = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].map(PathBuf::from);
        assert_eq!(parse_mounts(text), expected);
    }

    #[test]
    fn processes_of_other_namespaces_are_left_out() {
        assert_eq!(parse_pids(b"1\n0\n77\n").collect::<Vec<_>>(), [1, 77]);
    }
}
