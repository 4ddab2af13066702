//! WORLD. Reading one file of one process.
//!
//! Reading `cmdline` takes the target's memory lock and can block for as long as somebody holds it; `comm`, `stat` and
//! `status` do not. Nothing here may keep state between calls.

use std::ffi::CStr;
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode, OFlags, RawDir};
use rustix::io::{Errno, retry_on_intr};

use super::parse::{Stat, parse_cgroups, parse_pid, parse_stat, parse_state, status_number};
use crate::pid::Pid;

/// A title is at most one page: the kernel keeps argv there, and MRI cuts at 1,023 bytes.
pub const TITLE_LEN_MAX: usize = 4096;

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
            // Any other error: the process exists, and may be a worker.
            _ => Self::Denied,
        }
    }
}

/// The files of single processes. Cheap to clone, so that a reader can use it while the rest of the scanner
/// goes on.
#[derive(Debug, Clone)]
pub struct Files {
    pub(super) root: Arc<OwnedFd>,
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

    /// The title of a process whose first thread has ended: `cmdline` is empty then, and its other threads
    /// still show it. Empty if there are none, as in a zombie.
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

    /// Parent, start and number of threads of a process.
    ///
    /// # Errors
    /// See [`ReadError`]; it is `Gone` in a tree without `stat` files.
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

/// Whether a thread of our own is running or waiting for a CPU. It reads the kernel's own /proc, whatever the root of
/// the scan is.
#[must_use]
pub fn waits_for_a_cpu(tid: rustix::thread::Pid) -> bool {
    let path = format!("/proc/self/task/{}/stat", tid.as_raw_nonzero());
    let mut buf = [0; 1024];
    let stat = fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(ReadError::from);
    stat.and_then(|file| read_at_start(&file, &mut buf).map(|s| parse_state(s) == Some(b'R'))).unwrap_or(false)
}

/// An errno in words, without its number.
#[must_use]
pub fn describe(e: Errno) -> String {
    let text = std::io::Error::from(e).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_is_gone() {
        assert_eq!(ReadError::from(Errno::SRCH), ReadError::Gone);
        assert_eq!(ReadError::from(Errno::NOMEM), ReadError::NoFds);
        for other in [Errno::ACCESS, Errno::IO, Errno::OVERFLOW] {
            assert_eq!(ReadError::from(other), ReadError::Denied);
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
}
