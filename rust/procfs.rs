//! WORLD. Reading one file of one process. The root is a parameter, so that tests and containers can use another tree
//! than /proc.
//!
//! Nothing here keeps state between calls, and nothing here gives meaning to a title. Reading
//! `cmdline` takes the target's memory lock and can block for as long as somebody holds it;
//! `comm`, `stat` and `status` do not.

use std::ffi::CStr;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, Access, AtFlags, Mode, OFlags, RawDir, SeekFrom, StatxFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::error::Error;
use crate::pid::Pid;

/// A title is at most one page: the kernel keeps argv there, and MRI cuts at 1,023 bytes.
pub const TITLE_LEN_MAX: usize = 4096;

/// The parent of all kernel threads: pid 2 since Linux 2.6.
const KTHREADD: Pid = 2;

/// `PF_KTHREAD` of include/linux/sched.h, in the ninth field of /proc/PID/stat.
const PF_KTHREAD: u64 = 0x0020_0000;

/// One getdents64 call returns about 10,000 pids with this much room.
const LISTING_BYTES: usize = 256 * 1024;

/// The unit of `starttime`, `utime` and `stime` in /proc/PID/stat; `USER_HZ` is 100 on every Linux (proc(5)).
const TICK_MS: u64 = 10;

/// Why one file of one process could not be read. Never an error of the scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// The process is gone.
    Gone,
    /// Reading it is not permitted, or fails for a reason of its own.
    Denied,
    /// No file descriptor is free; nothing is known about the process.
    NoFds,
}

impl From<Errno> for ReadError {
    fn from(e: Errno) -> Self {
        match e {
            Errno::NOENT | Errno::SRCH | Errno::NOTDIR => Self::Gone,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => Self::NoFds,
            // Whatever else it is: the process is there, and may be a worker.
            _ => Self::Denied,
        }
    }
}

/// What /proc/PID/stat says that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The parent's id.
    pub ppid: Pid,
    /// When the process started, in milliseconds of `CLOCK_BOOTTIME`.
    pub started_ms: u64,
    /// How many threads it has; 0 where that is not told.
    pub threads: u32,
}

/// The files of single processes. Cheap to clone, so that a reader can use it while the rest of the scanner
/// continues.
#[derive(Debug, Clone)]
pub struct Files {
    root: Arc<OwnedFd>,
}

/// A procfs mount, or a tree of files that looks like one.
#[derive(Debug)]
pub struct Procfs {
    path: PathBuf,
    files: Files,
    /// Pid 1's name was read through this root.
    seen: bool,
    /// ... and the root shows the whole host; see [`Self::shows_the_host`].
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
    /// What the directory said.
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

impl Files {
    /// Opens one file of one process.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn open(&self, pid: Pid, name: &str) -> Result<OwnedFd, ReadError> {
        let mut path = [0u8; 64];
        // 10 digits, a slash, a name of this crate and the NUL always fit.
        let _ = write!(&mut path[..63], "{pid}/{name}");
        let path = CStr::from_bytes_until_nul(&path).unwrap_or(c"");
        Ok(retry_on_intr(|| fs::openat(&self.root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()))?)
    }

    /// Reads the beginning of one file of one process.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read<'b>(&self, pid: Pid, name: &str, buf: &'b mut [u8]) -> Result<&'b [u8], ReadError> {
        read_at_start(&self.open(pid, name)?, buf)
    }

    /// The title of a process whose first thread has ended: `cmdline` is empty then, and the threads that work
    /// on still show it. Empty if there is none, as of a zombie.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn title_without_leader<'b>(&self, pid: Pid, buf: &'b mut [u8]) -> Result<&'b [u8], ReadError> {
        if self.stat(pid)?.threads < 2 {
            return Ok(&buf[..0]);
        }
        let tasks = self.open_directory(pid, "task")?;
        let mut listing = [MaybeUninit::uninit(); 1024];
        let mut dir = RawDir::new(tasks.as_fd(), &mut listing);
        while let Some(entry) = dir.next() {
            if let Some(tid) = parse_pid(entry?.file_name().to_bytes()).filter(|&tid| tid != pid) {
                return self.read(pid, &format!("task/{tid}/cmdline"), buf);
            }
        }
        Ok(&buf[..0])
    }

    fn open_directory(&self, pid: Pid, name: &str) -> Result<OwnedFd, ReadError> {
        let path = format!("{pid}/{name}");
        Ok(fs::openat(&self.root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// The name of a process, without its newline.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn comm<'b>(&self, pid: Pid, buf: &'b mut [u8]) -> Result<&'b [u8], ReadError> {
        let comm = self.read(pid, "comm", buf)?;
        Ok(comm.strip_suffix(b"\n").unwrap_or(comm))
    }

    /// Parent and start of a process.
    ///
    /// # Errors
    /// See [`ReadError`]; a tree without `stat` files says `Gone`.
    pub fn stat(&self, pid: Pid) -> Result<Stat, ReadError> {
        parse_stat(self.read(pid, "stat", &mut [0; 1024])?).ok_or(ReadError::Gone)
    }

    /// The parent of a process from `status`, for trees that have no `stat`.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn ppid_from_status(&self, pid: Pid) -> Result<Pid, ReadError> {
        status_number(self.read(pid, "status", &mut [0; 2048])?, "PPid:", 0).ok_or(ReadError::Gone)
    }

    /// The real and the effective user of a process: who started it, and whose rights it has. They are read from
    /// `status`, because the owner of /proc/PID is root for processes that are not dumpable; without a `status` file
    /// the owner is used.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn uids(&self, pid: Pid) -> Result<[u32; 2], ReadError> {
        match self.read(pid, "status", &mut [0; 2048]) {
            Ok(status) => {
                let nth = |nth| status_number(status, "Uid:", nth).ok_or(ReadError::Denied);
                Ok([nth(0)?, nth(1)?])
            }
            Err(ReadError::Gone) => Ok([fs::statat(&self.root, pid.to_string(), AtFlags::empty())?.st_uid; 2]),
            Err(error) => Err(error),
        }
    }

    /// The cgroup paths of a process: in the v2 hierarchy, and in systemd's own v1 hierarchy.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn cgroups(&self, pid: Pid) -> Result<Vec<String>, ReadError> {
        Ok(parse_cgroups(self.read(pid, "cgroup", &mut [0; TITLE_LEN_MAX])?))
    }
}

/// Reads from the beginning of a file that may be kept open.
///
/// # Errors
/// See [`ReadError`].
pub fn read_at_start<'b>(file: &OwnedFd, buf: &'b mut [u8]) -> Result<&'b [u8], ReadError> {
    match retry_on_intr(|| rustix::io::pread(file, &mut *buf, 0)) {
        Ok(n) => Ok(&buf[..n]),
        // A pipe has no positions. Only a tree of plain files can hold one.
        Err(Errno::SPIPE) => Ok(rustix::io::read(file, &mut *buf).map(|n| &buf[..n])?),
        Err(e) => Err(e.into()),
    }
}

/// Whether a thread of this process is running or waiting for a CPU. It reads the kernel's own /proc, whatever the
/// root of the scan is.
#[must_use]
pub fn waits_for_a_cpu(tid: rustix::thread::Pid) -> bool {
    let path = format!("/proc/self/task/{}/stat", tid.as_raw_nonzero());
    let mut buf = [0; 1024];
    let stat = fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(ReadError::from);
    stat.and_then(|file| read_at_start(&file, &mut buf).map(|s| parse_state(s) == Some(b'R'))).unwrap_or(false)
}

fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// An errno in words, without its number.
#[must_use]
pub fn describe(e: Errno) -> String {
    let text = std::io::Error::from(e).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

fn parse_pid(name: &[u8]) -> Option<Pid> {
    if !name.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// `PID (COMM) STATE PPID … STARTTIME(22nd)`. COMM may hold anything, parentheses too.
fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let ppid = Pid::try_from(stat_field(stat, 4)?).ok()?;
    // A hand-made tree may end early; such a process counts as very old.
    let started_ms = stat_field(stat, 22).unwrap_or(0).saturating_mul(TICK_MS);
    Some(Stat { ppid, started_ms, threads: stat_field(stat, 20).unwrap_or(0) as u32 })
}

fn is_kernel_thread(stat: &[u8]) -> bool {
    stat_field(stat, 9).is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// A field of /proc/PID/stat, counted as proc(5) counts them; from the fourth on they are numbers.
fn stat_field(stat: &[u8], nth: usize) -> Option<u64> {
    let end = stat.iter().rposition(|&b| b == b')')?;
    std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace().nth(nth - 3)?.parse().ok()
}

/// utime and stime, the 14th and 15th field of /proc/PID/stat, in milliseconds together. They are of all
/// threads, those that ended included.
pub(crate) fn parse_cpu_ms(stat: &[u8]) -> Option<u64> {
    Some(stat_field(stat, 14)?.saturating_add(stat_field(stat, 15)?).saturating_mul(TICK_MS))
}

/// `PID (COMM) STATE …`.
fn parse_state(stat: &[u8]) -> Option<u8> {
    let end = stat.iter().rposition(|&b| b == b')')?;
    stat.get(end + 2).copied()
}

fn status_number(status: &[u8], key: &str, nth: usize) -> Option<u32> {
    let line = status.split(|&b| b == b'\n').find_map(|l| l.strip_prefix(key.as_bytes()))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(nth)?.parse().ok()
}

fn parse_cgroups(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(|line| {
            // HIERARCHY:CONTROLLERS:PATH, and the path may hold colons (cgroups(7)).
            let mut fields = line.splitn(3, ':');
            match (fields.next()?, fields.next()?, fields.next()?) {
                ("0", "", path) | (_, "name=systemd", path) => Some(path.to_owned()),
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_parsed_whatever_the_name_holds() {
        let stat = b"12 (a) (b c) S 7 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        assert_eq!(parse_stat(stat), Some(Stat { ppid: 7, started_ms: 42420, threads: 1 }));
        assert_eq!(parse_stat(b"12 (a) S 7"), Some(Stat { ppid: 7, started_ms: 0, threads: 0 }));
        assert_eq!(parse_stat(b"12 (a"), None);
        assert_eq!((parse_state(stat), parse_state(b"12 (a)")), (Some(b'S'), None));
        assert_eq!(parse_stat(b""), None);
        let worked = b"12 (a) S 7 1 1 0 -1 0 0 0 0 0 150 7 9 9 20 0 1 0 4242 0 0";
        assert_eq!((parse_cpu_ms(worked), parse_cpu_ms(b"12 (a) S 7")), (Some(1570), None));
    }

    #[test]
    fn only_what_is_not_there_is_gone() {
        assert_eq!(ReadError::from(Errno::SRCH), ReadError::Gone);
        assert_eq!(ReadError::from(Errno::NOMEM), ReadError::NoFds);
        for other in [Errno::ACCESS, Errno::IO, Errno::OVERFLOW] {
            assert_eq!(ReadError::from(other), ReadError::Denied);
        }
    }

    #[test]
    fn status_gives_the_parent_and_the_users() {
        let status = b"Name:\tx\nPPid:\t33\nUid:\t1\t2\t3\t4\n";
        assert_eq!(status_number(status, "PPid:", 0), Some(33));
        assert_eq!(status_number(status, "Uid:", 1), Some(2));
        assert_eq!(status_number(b"", "Uid:", 1), None);
    }

    #[test]
    fn cgroups_are_those_of_v2_and_of_systemds_hierarchy() {
        let text = b"9:name=systemd:/a.slice\n4:memory:/m\n0::/b.slice\n";
        assert_eq!(parse_cgroups(text), ["/a.slice", "/b.slice"]);
        let named_by_others = b"4:memory:/x:name=systemd:/jobs.slice\n5:pids:/0::/jobs.slice\n0::/u:ser\n";
        assert_eq!(parse_cgroups(named_by_others), ["/u:ser"]);
    }

    #[test]
    fn only_numbers_are_pids() {
        assert_eq!(parse_pid(b"123"), Some(123));
        for name in [&b"self"[..], b"+1", b"1a", b"", b"99999999999"] {
            assert_eq!(parse_pid(name), None);
        }
    }

    #[test]
    fn a_thread_that_waits_for_something_else_than_a_processor_is_told() {
        assert!(waits_for_a_cpu(rustix::thread::gettid()));
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let blocked = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            let _ = ended.recv();
        });
        let tid = told.recv().unwrap();
        while waits_for_a_cpu(tid) {
            std::thread::yield_now();
        }
        drop(end);
        blocked.join().unwrap();
        assert!(!waits_for_a_cpu(tid), "gone is not running");
    }

    #[test]
    fn visible_needs_no_free_file_descriptor_once_seen() {
        let mut proc = Procfs::open(Path::new("/proc")).unwrap();
        assert!(proc.visible() && proc.seen);
        assert!(proc.is_ours());
    }
}
