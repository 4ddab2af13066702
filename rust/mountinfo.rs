//! PURE. A process's table of mounts, as /proc/PID/mountinfo has it (proc(5)).
//!
//! It must never judge which mounts matter: callers do.

/// One mount.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount<'a> {
    /// The mount point as the table writes it: a blank in it is `\040`.
    pub(crate) point: &'a str,
    /// The type of the file system.
    pub(crate) kind: &'a str,
    options: &'a str,
}

impl Mount<'_> {
    /// Whether the file system itself, not the mount, has this option.
    pub(crate) fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|o| o == option)
    }
}

/// All mounts, in the table's order. Truncated lines are skipped.
pub(crate) fn mounts(table: &str) -> impl Iterator<Item = Mount<'_>> {
    table.lines().filter_map(|line| {
        // ID PARENT DEVICE ROOT POINT OPTIONS [TAG…] - TYPE SOURCE OPTIONS: the tags before the dash vary in number.
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        Some(Mount { point: left.split(' ').nth(4)?, kind, options })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_whatever_tags_they_have_and_cut_lines_are_skipped() {
        let table = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:5 master:1 - cgroup2 none rw,nsdelegate\n\
                     31 25 0:27 / /proc rw - proc proc rw,hidepid=2\n\
                     32 25 0:28 / /cut rw shared:7 - tmpfs\n\
                     33 25 0:29 /\n";
        let found: Vec<_> = mounts(table).map(|m| (m.point, m.kind)).collect();
        assert_eq!(found, [("/sys/fs/cgroup", "cgroup2"), ("/proc", "proc")]);
    }

    #[test]
    fn an_option_is_the_file_systems_own_and_a_whole_one() {
        let mount = mounts("31 25 0:27 / /m rw,nosuid - cgroup cgroup rw,cpu,cpuacct").next().unwrap();
        assert!(mount.has("cpuacct") && !mount.has("nosuid") && !mount.has("acct"));
    }
}
