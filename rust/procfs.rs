//! WORLD. The root of a procfs: which processes it lists, and whether it shows all of them.
//!
//! The root is a parameter, so that tests and containers can use another tree than /proc. `procfs/files.rs` reads the
//! files of one process, `procfs/parse.rs` their text. None of the three may ever interpret a title.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, Access, AtFlags, Mode, OFlags, RawDir, SeekFrom, StatxFlags};
use rustix::io::Errno;

use crate::error::Error;
use crate::pid::Pid;

mod files;
mod parse;

pub use files::{Files, ReadError, TITLE_LEN_MAX, describe, read_at_start, waits_for_a_cpu};
pub use parse::Stat;
pub(crate) use parse::parse_cpu_ms;
use parse::{is_kernel_thread, parse_pid};

/// The parent of all kernel threads: pid 2 since Linux 2.6.
const KTHREADD: Pid = 2;

/// One getdents64 call returns about 10,000 pids with this much room.
const LISTING_BYTES: usize = 256 * 1024;

/// A procfs mount, or a tree of files that looks like one.
#[derive(Debug)]
pub struct Procfs {
    path: PathBuf,
    files: Files,
    /// Pid 1's name was read through this root.
    seen: bool,
    /// The root shows the whole host; see [`Self::shows_the_host`].
    host: bool,
    listing: Vec<MaybeUninit<u8>>,
}

impl Procfs {
    /// Opens the root.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let root =
            open_root(path).map_err(|e| Error::Root(format!("procfs root {}: {}", path.display(), describe(e))))?;
        Ok(Self {
            path: path.into(),
            files: Files { root: Arc::new(root) },
            seen: false,
            host: false,
            listing: Vec::new(),
        })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files of single processes below it.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Whether this is the kernel's own procfs rather than a tree of plain files.
    #[must_use]
    pub fn is_kernels(&self) -> bool {
        fs::fstatfs(&self.files.root).is_ok_and(|s| s.f_type == fs::PROC_SUPER_MAGIC)
    }

    /// Whether the pids it shows are those of our own pid namespace. Only then do other interfaces (cgroup.procs,
    /// loadavg) refer to the same processes.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        let own = rustix::process::getpid().as_raw_pid().to_string();
        self.is_kernels()
            && fs::readlinkat(&self.files.root, c"self", Vec::new()).is_ok_and(|l| l.as_bytes() == own.as_bytes())
    }

    /// Whether pid 1's name can be read now. If not, processes are hidden, and a process that is not seen may still
    /// exist. After the first success it takes one system call and no file descriptor: the path is checked again,
    /// because a remount may hide it.
    pub fn visible(&mut self) -> bool {
        for attempt in 0..2 {
            let may_read = fs::accessat(&self.files.root, c"1/comm", Access::READ_OK, AtFlags::empty()).is_ok();
            if may_read && (self.seen || self.files.comm(1, &mut [0; 32]).is_ok_and(|comm| !comm.is_empty())) {
                if !self.seen {
                    (self.seen, self.host) = (true, self.looks_like_the_host());
                }
                return true;
            }
            // The tree may have been replaced under the same path.
            self.seen = false;
            match open_root(&self.path) {
                Ok(root) if attempt == 0 => self.files.root = Arc::new(root),
                _ => break,
            }
        }
        false
    }

    /// Whether the root shows the processes of the whole host, as determined when pid 1's name was first read. A tree
    /// of plain files counts as a whole host.
    #[must_use]
    pub fn shows_the_host(&self) -> bool {
        self.host
    }

    /// Kernel threads exist only in the initial pid namespace, and have a flag that no process can set. If other
    /// users' processes are hidden (hidepid), so are they.
    fn looks_like_the_host(&self) -> bool {
        !self.is_kernels() || self.files.read(KTHREADD, "stat", &mut [0; 1024]).is_ok_and(is_kernel_thread)
    }

    /// Opens a file of the root, if it is the kernel's own: another one may be mounted over it (as lxcfs does), which
    /// may hang or show something else. This check never waits for it.
    #[must_use]
    pub fn open_own(&self, name: &str) -> Option<OwnedFd> {
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let device = |file: &OwnedFd| {
            let told = fs::statx(file, c"", flags, StatxFlags::BASIC_STATS).ok()?;
            Some((told.stx_dev_major, told.stx_dev_minor))
        };
        let there = fs::openat(&self.files.root, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let own = device(&there).is_some_and(|of| Some(of) == device(&self.files.root));
        let open = || fs::openat(&self.files.root, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        if own { open() } else { None }
    }

    /// Every pid in the root, ascending.
    ///
    /// # Errors
    /// What reading the directory returned.
    pub fn list(&mut self, pids: &mut Vec<Pid>) -> Result<(), Errno> {
        pids.clear();
        self.listing.resize(LISTING_BYTES, MaybeUninit::uninit());
        fs::seek(&self.files.root, SeekFrom::Start(0))?;
        let mut dir = RawDir::new(self.files.root.as_fd(), &mut self.listing);
        while let Some(entry) = dir.next() {
            if let Some(pid) = parse_pid(entry?.file_name().to_bytes()) {
                pids.push(pid);
            }
        }
        // The kernel lists in order; a tree of plain files does not.
        if !pids.is_sorted() {
            pids.sort_unstable();
        }
        Ok(())
    }
}

fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_needs_no_free_file_descriptor_once_seen() {
        let mut proc = Procfs::open(Path::new("/proc")).unwrap();
        assert!(proc.visible() && proc.seen);
        assert!(proc.is_ours());
    }
}
