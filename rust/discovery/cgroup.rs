//! WORLD. The processes of configured cgroup subtrees, from their `cgroup.procs` files.
//!
//! It needs no privilege, and nobody outside the units can put a process there. The files stay open, so a scan costs
//! one read per cgroup whatever runs elsewhere; inotify reports when cgroups come and go below the configured ones. It
//! must never deliver a part of the tree as the whole.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, inotify};
use rustix::io::Errno;

use super::{Discovery, Found, Look};
use crate::mountinfo::{Mount, mounts};
use crate::pid::Pid;
use crate::procfs::{Procfs, ReadError, describe};

/// The kernel returns at most one page per read of a `cgroup.procs`, with as many whole lines as fit. So a read that
/// leaves more space than a line needs has reached the end.
const PAGE: usize = 4096;
const LINE_LEN_MAX: usize = 16;

/// Small subtrees are read whole in every scan; see [`Discovery::rechecks_each_scan_max`].
const RECHECKS_EACH_SCAN_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Cgroup {
    roots: Vec<PathBuf>,
    changes: OwnedFd,
    procs: Vec<Procs>,
    /// Something disappeared meanwhile or could not be watched: walk the tree again.
    incomplete: bool,
    pids: Vec<Pid>,
}

/// An open `cgroup.procs`.
#[derive(Debug)]
struct Procs {
    file: OwnedFd,
    is_root: bool,
}

impl Cgroup {
    /// The subtrees at these absolute paths of the v2 hierarchy and of systemd's own v1 hierarchy, as far as they are
    /// mounted.
    ///
    /// # Errors
    /// When neither is mounted, or the pids there are not those of the root.
    pub fn new(procfs: &Procfs, cgroups: &[String]) -> Result<Self, String> {
        if !procfs.is_ours() {
            return Err(format!("{} shows another pid namespace than cgroup.procs", procfs.path().display()));
        }
        let table = std::fs::read(procfs.path().join("self/mountinfo")).unwrap_or_default();
        let tops = hierarchies(&String::from_utf8_lossy(&table));
        if tops.is_empty() {
            return Err("no cgroup2 or systemd cgroup hierarchy is mounted".into());
        }
        Self::of(tops.iter().flat_map(|top| cgroups.iter().map(|c| top.join(c.trim_start_matches('/')))).collect())
    }

    fn of(roots: Vec<PathBuf>) -> Result<Self, String> {
        let changes = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)
            .map_err(|e| format!("inotify: {}", describe(e)))?;
        Ok(Self { roots, changes, procs: Vec::new(), incomplete: true, pids: Vec::new() })
    }

    /// Opens every `cgroup.procs` below the roots again. Watches come first, so that a cgroup created meanwhile is an
    /// event for the next scan.
    fn walk(&mut self) -> Result<(), Errno> {
        self.procs.clear();
        self.incomplete = false;
        let mut stack = self.roots.clone();
        while let Some(dir) = stack.pop() {
            let events = inotify::WatchFlags::CREATE
                | inotify::WatchFlags::DELETE
                | inotify::WatchFlags::MOVE
                | inotify::WatchFlags::DELETE_SELF
                | inotify::WatchFlags::ONLYDIR;
            let (watched, is_root) = (self.watch(&dir, events), self.roots.contains(&dir));
            match enter(&dir, &mut stack) {
                Ok(file) => {
                    self.procs.push(Procs { file, is_root });
                    self.incomplete |= !watched;
                }
                Err(e) if is_gone(e) => self.incomplete |= !(is_root && self.is_awaited(&dir)),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Whether an event will report when this missing root, or one of its parents, is created.
    fn is_awaited(&self, root: &Path) -> bool {
        let nearest = || root.ancestors().find(|dir| dir.is_dir());
        let there = nearest().filter(|&dir| dir != root);
        // The next directory may have been created just before the watch.
        there.is_some_and(|dir| self.watch(dir, inotify::WatchFlags::CREATE)) && nearest() == there
    }

    /// Whether the watch could be added: a user may only have so many, and other programs may have taken them all.
    fn watch(&self, dir: &Path, events: inotify::WatchFlags) -> bool {
        inotify::add_watch(&self.changes, dir, events | inotify::WatchFlags::MASK_ADD).is_ok()
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
        for procs in &self.procs {
            let mut at = 0;
            loop {
                let n = match rustix::io::pread(&procs.file, &mut buf, at as u64) {
                    Ok(n) => n,
                    // A threaded cgroup has no list of its own. Its domain lists its processes, and a
                    // root's domain is not in the tree.
                    Err(Errno::OPNOTSUPP) if !procs.is_root => 0,
                    // Removed since, and so empty; the rest of the tree is still there.
                    Err(e) if is_gone(e) => {
                        self.incomplete = true;
                        0
                    }
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

    fn read_tree(&mut self) -> Result<(), Errno> {
        if self.changed() {
            self.walk()?;
        }
        self.read_all()
    }
}

impl Discovery for Cgroup {
    fn name(&self) -> &'static str {
        "cgroup"
    }

    fn look(&mut self, _procfs: &mut Procfs, found: &mut Vec<Found>) -> Result<Look, String> {
        match self.read_tree() {
            Ok(()) => {}
            Err(e) if ReadError::from(e) == ReadError::NoFds => {
                // Half a tree is useless, and its descriptors are needed elsewhere.
                self.procs.clear();
                self.incomplete = true;
                return Ok(Look::Starved);
            }
            Err(e) => return Err(format!("reading cgroups: {}", describe(e))),
        }
        found.clear();
        found.extend(self.pids.iter().map(|&pid| Found { pid, ident: 0 }));
        Ok(Look::Listed)
    }

    fn rechecks_each_scan_max(&self) -> usize {
        RECHECKS_EACH_SCAN_MAX
    }
}

/// Opens the list of a cgroup's processes, and adds the cgroups below it to `below`.
fn enter(dir: &Path, below: &mut Vec<PathBuf>) -> Result<OwnedFd, Errno> {
    let errno = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let procs = rustix::fs::open(dir.join("cgroup.procs"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in std::fs::read_dir(dir).map_err(errno)? {
        let entry = entry.map_err(errno)?;
        if entry.file_type().map_err(errno)?.is_dir() {
            below.push(entry.path());
        }
    }
    Ok(procs)
}

/// Whether the error means that the cgroup does not exist, rather than that it cannot be read.
fn is_gone(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::NODEV)
}

/// Lines of decimal pids; 0 stands for a process outside our pid namespace.
fn parse_pids(text: &[u8]) -> impl Iterator<Item = Pid> {
    text.split(|&b| b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).filter(|&pid| pid != 0)
}

/// The mount points of the hierarchies whose paths name processes: cgroup2, and systemd's own of v1.
fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let names_processes = |m: &Mount<'_>| m.kind == "cgroup2" || (m.kind == "cgroup" && m.has("name=systemd"));
    mounts(mountinfo).filter(names_processes).map(|m| m.point.into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::ErrorKind;
    use std::process::{Child, Command};

    /// A tree of plain files that looks like a hierarchy of cgroups, until it is dropped.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let top = std::env::temp_dir().join(format!("busyweight-cgroup-{name}-{}", std::process::id()));
            fs::create_dir_all(&top).unwrap();
            Self(top)
        }

        fn add(&self, group: &str, pids: &str) {
            fs::create_dir_all(self.0.join(group)).unwrap();
            fs::write(self.0.join(group).join("cgroup.procs"), pids).unwrap();
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn look(cgroup: &mut Cgroup) -> Result<Vec<Pid>, String> {
        let mut found = Vec::new();
        let looked = cgroup.look(&mut Procfs::open(Path::new("/proc")).unwrap(), &mut found)?;
        assert_eq!(looked, Look::Listed);
        Ok(found.iter().map(|f| f.pid).collect())
    }

    #[test]
    fn mounts_are_those_with_process_names_to_them() {
        let text = "30 25 0:26 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw\n\
                    31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup none rw,xattr,name=systemd\n\
                    32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let expected = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].map(PathBuf::from);
        assert_eq!(hierarchies(text), expected);
    }

    #[test]
    fn processes_of_other_namespaces_are_left_out() {
        assert_eq!(parse_pids(b"1\n0\n77\n").collect::<Vec<_>>(), [1, 77]);
    }

    #[test]
    fn a_tree_is_followed_while_it_comes_and_goes_and_not_walked_while_it_stands() {
        let tree = Tree::new("followed");
        let mut cgroup = Cgroup::of(["a/b", "c", "never"].map(|group| tree.0.join(group)).into()).unwrap();
        assert_eq!(look(&mut cgroup), Ok(vec![]));
        fs::create_dir(tree.0.join("a")).unwrap();
        assert_eq!(look(&mut cgroup), Ok(vec![]));
        tree.add("a/b", "9\n7\n");
        tree.add("a/other", "5\n");
        assert_eq!(look(&mut cgroup), Ok(vec![7, 9]));
        tree.add("a/b/x", "8\n7\n");
        tree.add("c", "1\n");
        assert_eq!(look(&mut cgroup), Ok(vec![1, 7, 8, 9]));
        fs::remove_dir_all(tree.0.join("a/b/x")).unwrap();
        assert_eq!(look(&mut cgroup), Ok(vec![1, 7, 9]));
        assert_eq!(look(&mut cgroup), Ok(vec![1, 7, 9]));
        assert!(!cgroup.changed(), "nothing is left to walk for");
    }

    #[test]
    fn a_cgroup_that_cannot_be_seen_is_an_error_and_no_empty_list() {
        let tree = Tree::new("unseen");
        for (group, expected) in [("unreadable", "is a directory"), ("unopenable", "too many levels")] {
            tree.add(group, "7\n");
            let procs = tree.0.join(group).join("cgroup.procs");
            fs::remove_file(&procs).unwrap();
            match group {
                "unreadable" => fs::create_dir(&procs).unwrap(),
                _ => std::os::unix::fs::symlink("cgroup.procs", &procs).unwrap(),
            }
            let why = look(&mut Cgroup::of(vec![tree.0.join(group)]).unwrap()).unwrap_err();
            assert!(why.starts_with(&format!("reading cgroups: {expected}")), "{why}");
        }
    }

    /// Real cgroups with a process each, except for the one that is gone again.
    struct Groups {
        top: PathBuf,
        processes: Vec<Child>,
    }

    impl Groups {
        const NAMES: [&str; 3] = ["late", "gone", "early"];

        /// `None` where none can be made.
        fn new() -> Option<Self> {
            let tops = hierarchies(&fs::read_to_string("/proc/self/mountinfo").unwrap());
            let top = tops.first()?.join(format!("busyweight-unit-{}", std::process::id()));
            fs::create_dir(&top).ok()?;
            let mut groups = Self { top, processes: Vec::new() };
            for name in Self::NAMES {
                fs::create_dir(groups.top.join(name)).unwrap();
            }
            for name in ["early", "late"] {
                let process = Command::new("sleep").arg("600").spawn().unwrap();
                fs::write(groups.top.join(name).join("cgroup.procs"), process.id().to_string()).unwrap();
                groups.processes.push(process);
            }
            Some(groups)
        }
    }

    impl Drop for Groups {
        fn drop(&mut self) {
            for process in &mut self.processes {
                let _ = process.kill();
                let _ = process.wait();
            }
            for dir in Self::NAMES.iter().map(|name| self.top.join(name)).chain([self.top.clone()]) {
                // The kernel may take a moment to see that it is empty.
                while fs::remove_dir(&dir).is_err_and(|e| e.kind() == ErrorKind::ResourceBusy) {
                    std::thread::yield_now();
                }
            }
        }
    }

    #[test]
    fn a_cgroup_that_goes_between_walk_and_read_takes_nothing_else_off_the_list() {
        let Some(groups) = Groups::new() else {
            assert!(std::env::var_os("CI").is_none(), "no cgroup can be made here");
            return;
        };
        let mut cgroup = Cgroup::of(Vec::new()).unwrap();
        cgroup.incomplete = false;
        for name in Groups::NAMES {
            let file = enter(&groups.top.join(name), &mut Vec::new()).unwrap();
            cgroup.procs.push(Procs { file, is_root: false });
        }
        fs::remove_dir(groups.top.join("gone")).unwrap();
        cgroup.read_all().unwrap();
        let mut pids: Vec<Pid> = groups.processes.iter().map(Child::id).collect();
        pids.sort_unstable();
        assert_eq!(cgroup.pids, pids);
        assert!(cgroup.incomplete, "and the tree is walked again");
    }
}
