//! WORLD. The cores that the named cgroups use: those of other programs, which count in addition to the workers'.
//!
//! One read per cgroup and scan, of a file that stays open. A missing cgroup uses nothing; every scan looks for it
//! again, because a service's cgroup comes and goes with the service. It must never make a scan fail.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use crate::effort::smoothed;
use crate::mountinfo::{Mount, mounts};
use crate::procfs::read_at_start;

/// The shortest time over which a share is measured.
const WINDOW_NS: u64 = 100_000_000;

/// The cgroups of one selector.
#[derive(Debug, Default)]
pub struct OtherCgroups(Vec<Other>);

#[derive(Debug)]
struct Other {
    /// The files that may have its CPU time, the likeliest first.
    places: Vec<PathBuf>,
    file: Option<OwnedFd>,
    /// When it was read last, and its CPU time then.
    last: Option<(u64, u64)>,
    milli: u64,
    looked: bool,
}

impl OtherCgroups {
    /// The cgroups at these absolute paths. The bare name of a unit stands for the one in `system.slice`, too.
    #[must_use]
    pub fn new(paths: &[String]) -> Self {
        let roots = if paths.is_empty() { Vec::new() } else { accounts(&mount_table()) };
        Self::below(&roots, paths)
    }

    fn below(roots: &[(PathBuf, &'static str)], paths: &[String]) -> Self {
        // The CPU time of a cgroup includes that of the cgroups below it.
        let inner =
            |path: &str| paths.iter().any(|p| path.strip_prefix(p.as_str()).is_some_and(|rest| rest.starts_with('/')));
        let mut own: Vec<&String> = paths.iter().filter(|path| !inner(path)).collect();
        own.sort();
        own.dedup();
        let other = |path: &String| {
            let name = path.trim_start_matches('/');
            let mut names = vec![name.to_owned()];
            if !name.contains('/') && name.ends_with(".service") {
                names.push(format!("system.slice/{name}"));
            }
            let places = names.iter().flat_map(|n| roots.iter().map(move |(root, file)| root.join(n).join(file)));
            Other { places: places.collect(), file: None, last: None, milli: 0, looked: false }
        };
        Self(own.into_iter().map(other).collect())
    }

    /// The cores that all of them use together, in thousandths, smoothed.
    pub fn look(&mut self, now_ns: u64) -> u64 {
        self.0.iter_mut().map(|other| other.look(now_ns)).sum()
    }
}

impl Other {
    fn look(&mut self, now_ns: u64) -> u64 {
        let Some(cpu_ns) = self.read() else {
            (self.last, self.milli, self.looked) = (None, 0, false);
            return 0;
        };
        match self.last {
            Some((at_ns, _)) if now_ns.saturating_sub(at_ns) < WINDOW_NS => return self.milli,
            Some((at_ns, before_ns)) if cpu_ns >= before_ns => {
                let window_ns = now_ns - at_ns;
                let milli = (cpu_ns - before_ns).saturating_mul(1000) / window_ns;
                self.milli = smoothed(self.milli, milli, window_ns, self.looked);
                self.looked = true;
            }
            // A restarted unit counts from zero.
            _ => (self.milli, self.looked) = (0, false),
        }
        self.last = Some((now_ns, cpu_ns));
        self.milli
    }

    fn read(&mut self) -> Option<u64> {
        let mut buf = [0; 1024];
        if let Some(cpu_ns) = self.file.as_ref().and_then(|file| parse(read_at_start(file, &mut buf).ok()?)) {
            return Some(cpu_ns);
        }
        let open = |place: &PathBuf| rustix::fs::open(place, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        self.file = self.places.iter().find_map(open);
        parse(read_at_start(self.file.as_ref()?, &mut buf).ok()?)
    }
}

/// `usage_usec N` of cpu.stat (v2), or the nanoseconds of cpuacct.usage (v1).
fn parse(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    match text.lines().find_map(|line| line.strip_prefix("usage_usec ")) {
        Some(usec) => usec.trim().parse::<u64>().ok()?.checked_mul(1000),
        None => text.trim().parse().ok(),
    }
}

fn mount_table() -> String {
    fs::read("/proc/self/mountinfo").map(|table| String::from_utf8_lossy(&table).into_owned()).unwrap_or_default()
}

/// The mount points of the hierarchies that account for CPU time, each with the name of the file that has it.
fn accounts(mountinfo: &str) -> Vec<(PathBuf, &'static str)> {
    let account = |mount: Mount<'_>| match mount.kind {
        "cgroup2" => Some((mount.point.into(), "cpu.stat")),
        "cgroup" if mount.has("cpuacct") => Some((mount.point.into(), "cpuacct.usage")),
        _ => None,
    };
    mounts(mountinfo).filter_map(account).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn either_version_tells_its_time() {
        assert_eq!(parse(b"usage_usec 12\nuser_usec 5\n"), Some(12_000));
        assert_eq!((parse(b"4200\n"), parse(b"nr_periods 0\n")), (Some(4200), None));
    }

    #[test]
    fn mounts_that_account_are_found() {
        let table = "31 24 0:27 / /cg/cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                     32 24 0:28 / /cg/memory rw - cgroup cgroup rw,memory\n\
                     33 24 0:29 / /cg/unified rw - cgroup2 cgroup2 rw\n";
        let found = accounts(table);
        assert_eq!(found, [("/cg/cpuacct".into(), "cpuacct.usage"), ("/cg/unified".into(), "cpu.stat")]);
    }

    #[test]
    fn cgroups_come_and_go_and_their_cores_add_up_once() {
        let root = std::env::temp_dir().join(format!("busyweight-others-{}", std::process::id()));
        let unit = root.join("system.slice/backup.service");
        fs::create_dir_all(&unit).unwrap();
        let tell = |usec: u64| fs::write(unit.join("cpu.stat"), format!("usage_usec {usec}\n")).unwrap();
        let paths = ["/backup.service".to_owned(), "/backup.service/inner".into(), "/absent".into()];
        let mut others = OtherCgroups::below(&[(root.clone(), "cpu.stat")], &paths);
        tell(0);
        assert_eq!(others.look(1000 * MS), 0);
        tell(1_000_000);
        assert_eq!(others.look(1500 * MS), 2000);
        assert_eq!(others.look(1550 * MS), 2000, "no share over so short a time");
        fs::remove_dir_all(&unit).unwrap();
        others.0.iter_mut().for_each(|other| other.file = None);
        assert_eq!(others.look(2000 * MS), 0);
        fs::remove_dir_all(&root).unwrap();
    }
}
