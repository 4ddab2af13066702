//! PURE. What the text of one file of a process says (proc(5)).
//!
//! It must never believe a process's name: that may hold anything, and so may whatever seems to follow it.

use crate::pid::Pid;

/// `PF_KTHREAD` of include/linux/sched.h, in the ninth field of /proc/PID/stat.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The unit of `starttime`, `utime` and `stime` in /proc/PID/stat; `USER_HZ` is 100 on every Linux (proc(5)).
const TICK_MS: u64 = 10;

/// What is needed of /proc/PID/stat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The parent's id.
    pub ppid: Pid,
    /// When the process started, in milliseconds of `CLOCK_BOOTTIME`.
    pub started_ms: u64,
    /// How many threads it has; 0 if the file does not say.
    pub threads: u32,
}

pub(super) fn parse_pid(name: &[u8]) -> Option<Pid> {
    if !name.first()?.is_ascii_digit() {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// `PID (COMM) STATE PPID … STARTTIME(22nd)`. COMM may hold anything, parentheses too.
pub(super) fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let ppid = Pid::try_from(stat_field(stat, 4)?).ok()?;
    // A hand-made tree may end early; such a process counts as very old.
    let started_ms = stat_field(stat, 22).unwrap_or(0).saturating_mul(TICK_MS);
    Some(Stat { ppid, started_ms, threads: stat_field(stat, 20).unwrap_or(0) as u32 })
}

pub(super) fn is_kernel_thread(stat: &[u8]) -> bool {
    stat_field(stat, 9).is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// A field of /proc/PID/stat, counted as proc(5) counts them; from the fourth on they are numbers.
fn stat_field(stat: &[u8], nth: usize) -> Option<u64> {
    let end = stat.iter().rposition(|&b| b == b')')?;
    std::str::from_utf8(&stat[end + 1..]).ok()?.split_ascii_whitespace().nth(nth - 3)?.parse().ok()
}

/// utime and stime, the 14th and 15th field of /proc/PID/stat, added up, in milliseconds: of all
/// threads, including those that ended.
pub(crate) fn parse_cpu_ms(stat: &[u8]) -> Option<u64> {
    Some(stat_field(stat, 14)?.saturating_add(stat_field(stat, 15)?).saturating_mul(TICK_MS))
}

/// `PID (COMM) STATE …`.
pub(super) fn parse_state(stat: &[u8]) -> Option<u8> {
    let end = stat.iter().rposition(|&b| b == b')')?;
    stat.get(end + 2).copied()
}

pub(super) fn status_number(status: &[u8], key: &str, nth: usize) -> Option<u32> {
    let line = status.split(|&b| b == b'\n').find_map(|l| l.strip_prefix(key.as_bytes()))?;
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(nth)?.parse().ok()
}

pub(super) fn parse_cgroups(text: &[u8]) -> Vec<String> {
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
}
