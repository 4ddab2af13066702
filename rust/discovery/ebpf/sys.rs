//! WORLD. The two bpf(2) commands that aya does not offer: a batched look-up, and how often a program was skipped.
//!
//! It must never pass the kernel an address whose size its types do not prove.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::Pod;
use aya::maps::{HashMap, IterableMap as _, MapData};

const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// The batch part of `union bpf_attr`.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The info part of `union bpf_attr`.
#[repr(C)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_prog_info` up to the field that is read. The kernel fills as much as it is given.
#[repr(C)]
struct ProgramInfo {
    before: [u64; 26],
    recursion_misses: u64,
}

const _: () = assert!(std::mem::offset_of!(ProgramInfo, recursion_misses) == 208);

/// Copies entries of a hash map, starting at `position` (`None`: at the beginning), and moves `position` on. Returns
/// how many it copied, and whether they were the last.
///
/// An entry that stays in the map for the whole walk is seen exactly once.
pub(super) fn lookup_batch<V: Pod>(
    map: &HashMap<MapData, u32, V>,
    position: &mut Option<u32>,
    keys: &mut [u32],
    values: &mut [V],
) -> io::Result<(usize, bool)> {
    let mut next = 0_u32;
    let mut attr = BatchAttr {
        in_batch: position.as_ref().map_or(0, |at| std::ptr::from_ref(at) as u64),
        out_batch: &raw mut next as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.map().fd().as_fd().as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: every address is of memory that outlives the call. The kernel writes at most `count` keys and values,
    // there is room for so many of both, and aya has checked that the map's have the sizes of `u32` and `V`, all of
    // whose bytes may be anything (`Pod`).
    match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) } {
        Ok(()) => {
            *position = Some(next);
            Ok((attr.count as usize, false))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attr.count as usize, true)),
        Err(error) => Err(error),
    }
}

/// How often the kernel skipped a program because it was already running on that CPU. Always 0 before Linux 5.12, which
/// does not report it.
pub(super) fn recursion_misses(program: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = ProgramInfo { before: [0; 26], recursion_misses: 0 };
    let mut attr = InfoAttr {
        bpf_fd: program.as_raw_fd() as u32,
        info_len: size_of::<ProgramInfo>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: `info` is as long as `info_len` says and outlives the call, and any bytes in it are numbers. The zeros in
    // it tell the kernel that there are no further buffers to fill.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.recursion_misses)
}

/// # Safety
///
/// `attr` must be what the command expects, and the addresses in it valid for what it does.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<()> {
    // SAFETY: `attr` and the addresses in it are as the caller promises; the length is that of `attr`.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
