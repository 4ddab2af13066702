//! WORLD. Candidates from the kernel: tracepoint programs maintain a map of the processes whose comm passes a filter,
//! and a scan reads the map instead of listing /proc.
//!
//! The map holds processes that came or were renamed after loading. Those from before must be found by a listing
//! after loading, and again whenever [`Counters::lost`] has changed; what such a listing finds belongs next to the map,
//! never in it, because a process may exit between being seen and being written. The map may hold a process that is
//! not a worker, but never misses a worker.
//!
//! This module must never make a start fail: whatever is missing is an [`Unavailable`], and another discovery takes
//! over. It must keep no privilege that it does not need, and never read more of a process's name than its comm.

use std::ffi::CStr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::programs::{BtfTracePoint, ProgramType};
use aya::sys::is_program_supported;
use aya::{Btf, Ebpf, EbpfLoader};
use rustix::thread::{name, set_name};

use super::filter::{CommPrefix, Filter};
use super::unavailable::{Unavailable, chain, refused};
use super::{KERNEL_BTF, privileges, sys};

/// The programs of `candidates.bpf.c`; each is named after its tracepoint.
const HOOKS: [&str; 3] = ["task_rename", "sched_process_fork", "sched_process_exit"];

/// The initial pid namespace's inode number, fixed in the kernel (`PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// How many entries one system call reads.
const BATCH: usize = 1024;

#[cfg(busyweight_ebpf_object)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/candidates.bpf.o")));
#[cfg(not(busyweight_ebpf_object))]
const OBJECT: Option<&[u8]> = None;

/// `struct counters` of `candidates.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Bss {
    generation: u64,
    lost: u64,
    token_tgid: u64,
}

const _: () = assert!(size_of::<Bss>() == 24);

// SAFETY: three u64, and no padding, as the assertion above shows: any bytes are a value, and all bytes are set.
unsafe impl aya::Pod for Bss {}

/// A process whose comm passes the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The process, by its number in the initial pid namespace.
    pub tgid: u32,
    /// When it came, or was last renamed or exec'ed, in nanoseconds of `CLOCK_BOOTTIME`. Another value under the same
    /// tgid may be another process.
    pub named_ns: u64,
}

/// What has happened to the map since loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Moves with every entry that comes, is renamed or goes. While it stands still, the map is as it was when it was
    /// read after the counter.
    pub generation: u64,
    /// Moves with every change that the map refused, usually because it was full. Such an entry does not come back:
    /// list /proc again.
    pub lost: u64,
}

/// The loaded programs and their maps. Dropping it detaches them.
pub struct Candidates {
    /// Holds the programs and keeps them attached.
    programs: Ebpf,
    /// From tgid to [`Candidate::named_ns`].
    entries: HashMap<MapData, u32, u64>,
    filter: Array<MapData, Filter>,
    bss: Array<MapData, Bss>,
    keys: Vec<u32>,
    values: Vec<u64>,
}

impl Candidates {
    /// Loads and attaches the programs. Once it has returned, they notice every process that comes or is renamed within
    /// `prefixes`. (A rename that was just past its hook then appears in /proc an instant later: look a second time,
    /// after a second or so.)
    ///
    /// Call it on the main thread before there are others: capabilities belong to threads. With `drop_privileges` the
    /// thread gives up `CAP_BPF` and `CAP_PERFMON` for good, whether it loaded or not, and no other capability; if the
    /// kernel requires it for look-ups, `CAP_BPF` stays. The calling thread has another name for an instant, by which
    /// the programs find it.
    ///
    /// # Errors
    ///
    /// What is missing. Nothing stays loaded then.
    pub fn load(
        procfs_root: &Path,
        prefixes: &[CommPrefix],
        max_entries: u32,
        drop_privileges: bool,
    ) -> Result<Self, Unavailable> {
        let loaded = Self::load_privileged(procfs_root, prefixes, max_entries);
        if drop_privileges {
            let look_up = || loaded.as_ref().map_or(Ok(()), Self::look_up);
            let given_up = privileges::give_up(look_up).map_err(refused);
            // The reason why nothing was loaded matters more than why a capability could not be dropped.
            return loaded.and_then(|candidates| given_up.map(|()| candidates));
        }
        loaded
    }

    fn load_privileged(procfs_root: &Path, prefixes: &[CommPrefix], max_entries: u32) -> Result<Self, Unavailable> {
        let wanted = Filter::of(prefixes)?;
        let object = may_load(procfs_root)?;
        let loaded = load_programs(object, max_entries);
        give_memory_back();
        let mut candidates = Self::of(loaded?)?;
        if candidates.own_tgid()? != tgid_in(procfs_root) {
            return Err(Unavailable::OtherPidNamespace);
        }
        // Only now, with every hook in place: no entry may be added before the hook that would remove it.
        candidates.filter.set(0, wanted, 0).map_err(refused)?;
        // Checks that this kernel has batched look-ups, which came later than the rest.
        candidates.look_up().map_err(refused)?;
        Ok(candidates)
    }

    /// Reads the counters, in one system call. To miss nothing, read them before the map.
    ///
    /// # Errors
    ///
    /// Those of bpf(2).
    pub fn counters(&self) -> io::Result<Counters> {
        let Bss { generation, lost, .. } = self.bss.get(&0, 0).map_err(io_error)?;
        Ok(Counters { generation, lost })
    }

    /// How often the kernel has skipped one of the programs, in three system calls. Ordinary kernels never do. Ask now
    /// and then, and treat a change like one of [`Counters::lost`].
    ///
    /// # Errors
    ///
    /// Those of bpf(2).
    pub fn misses(&self) -> io::Result<u64> {
        HOOKS.iter().try_fold(0, |sum, name| {
            let program = self.programs.program(name).ok_or(io::ErrorKind::NotFound)?;
            let fd = program.fd().map_err(io::Error::other)?;
            Ok(sum + sys::recursion_misses(fd.as_fd())?)
        })
    }

    /// Replaces `out` by the whole map, in no order: a system call for every 1,024 entries.
    ///
    /// # Errors
    ///
    /// Those of bpf(2).
    pub fn read(&mut self, out: &mut Vec<Candidate>) -> io::Result<()> {
        out.clear();
        let mut position = None;
        loop {
            let (count, last) = sys::lookup_batch(&self.entries, &mut position, &mut self.keys, &mut self.values)?;
            let entries = self.keys.iter().zip(&self.values).take(count);
            out.extend(entries.map(|(&tgid, &named_ns)| Candidate { tgid, named_ns }));
            if last {
                return Ok(());
            }
        }
    }

    /// Changes the filter, which needs no privilege since Linux 5.19. A listing of /proc must follow. Entries that
    /// passed only the former filter stay until they exit or are renamed.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for patterns that [`Self::load`] refuses, else those of bpf(2). The former filter then stays.
    pub fn set_prefixes(&mut self, prefixes: &[CommPrefix]) -> io::Result<()> {
        let wanted = Filter::of(prefixes).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.filter.set(0, wanted, 0).map_err(io_error)
    }

    fn of(mut programs: Ebpf) -> Result<Self, Unavailable> {
        let mut take =
            |name: &str| programs.take_map(name).ok_or_else(|| Unavailable::Refused(format!("no map {name}")));
        Ok(Self {
            entries: typed(take("candidates")?)?,
            filter: typed(take("filter")?)?,
            bss: typed(take(".bss")?)?,
            programs,
            keys: vec![0; BATCH],
            values: vec![0; BATCH],
        })
    }

    /// Our pid in the initial pid namespace: this thread takes a name that no other has, and the rename hook notes the
    /// pid of the process that did.
    fn own_tgid(&mut self) -> Result<u64, Unavailable> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut token = [0; 16];
        let text = format!("{:015x}", since_epoch.as_nanos() & ((1 << 60) - 1));
        token[..15].copy_from_slice(text.as_bytes());

        self.filter.set(0, Filter::asking(token), 0).map_err(refused)?;
        let former = name().map_err(refused)?;
        let token = CStr::from_bytes_until_nul(&token).map_err(refused)?;
        set_name(token).and_then(|()| set_name(&former)).map_err(refused)?;
        let Bss { token_tgid, .. } = self.bss.get(&0, 0).map_err(refused)?;
        if token_tgid == 0 {
            return Err(Unavailable::Refused("the rename hook is attached but does not run".into()));
        }
        Ok(token_tgid)
    }

    fn look_up(&self) -> io::Result<()> {
        self.counters()?;
        let (mut key, mut value) = ([0; 64], [0_u64; 64]);
        sys::lookup_batch(&self.entries, &mut None, &mut key, &mut value)?;
        Ok(())
    }
}

/// Checks what loading needs, without loading the programs.
///
/// # Errors
///
/// The first thing that [`Candidates::load`] would lack.
pub fn probe(procfs_root: &Path) -> Result<(), Unavailable> {
    may_load(procfs_root).map(|_| ())
}

/// The cheap checks. bpf(2) comes last, where it should be allowed: a seccomp filter may kill the process for it.
fn may_load(procfs_root: &Path) -> Result<&'static [u8], Unavailable> {
    let object = OBJECT.ok_or(Unavailable::NotBuilt)?;
    fs::File::open(KERNEL_BTF).map_err(|error| Unavailable::NoBtf(error.to_string()))?;
    let missing = privileges::missing().map_err(refused)?;
    if !missing.is_empty() {
        return Err(Unavailable::NotPermitted(format!("no {}", missing.join(", no "))));
    }
    let own_namespace = fs::read_link(procfs_root.join("self/ns/pid")).unwrap_or_default();
    let own_tgid = u64::from(std::process::id());
    if own_namespace != Path::new(INITIAL_PID_NAMESPACE) && tgid_in(procfs_root) == own_tgid {
        return Err(Unavailable::OtherPidNamespace);
    }
    // Any program that needs both capabilities will do: this one is two instructions long.
    is_program_supported(ProgramType::RawTracePoint).map_err(refused)?;
    Ok(object)
}

fn load_programs(object: &[u8], max_entries: u32) -> Result<Ebpf, Unavailable> {
    // The loader parses the kernel's types for itself. It is dropped before they are parsed again for the hooks, so
    // that they are in memory only once.
    let mut programs = EbpfLoader::new().map_max_entries("candidates", max_entries).load(object).map_err(refused)?;
    let btf = Btf::from_sys_fs().map_err(|error| Unavailable::NoBtf(chain(&error)))?;
    for name in HOOKS {
        let program = programs.program_mut(name).ok_or_else(|| Unavailable::Refused(format!("no program {name}")))?;
        let program: &mut BtfTracePoint = program.try_into().map_err(refused)?;
        program.load(name, &btf).map_err(refused)?;
        program.attach().map_err(refused)?;
    }
    Ok(programs)
}

/// Parsing the kernel's types leaves many megabytes of free memory on the heap.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it gives back only memory that nobody has allocated, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(map: Map) -> Result<T, Unavailable> {
    T::try_from(map).map_err(refused)
}

/// Our pid in that procfs; 0, which no process has, if we do not appear there.
fn tgid_in(procfs_root: &Path) -> u64 {
    fs::read_link(procfs_root.join("self")).ok().and_then(|link| link.to_str()?.parse().ok()).unwrap_or(0)
}

fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}
