"""WORLD. This machine's capacity: its cores, and what cgroups may use of them.

It only counts, and starts no process. The agent's own affinity and CPU quota do not matter: a hardened unit must not
make a big host look small.
"""

import errno
import os
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

from agent.sampling.mounts import mounts

MOUNTINFO = Path("/proc/self/mountinfo")
CPUS = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")

# The file does not exist, or belongs to something that is gone or hidden.
NOT_TOLD = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.ENODEV,
    errno.ENXIO,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.EACCES,
    errno.EPERM,
}


def cores(cpus: Path = CPUS, cpuinfo: Path = CPUINFO) -> tuple[int, str]:
    """The machine's physical cores that are online, and where the number comes from. Raises OSError if they cannot be
    counted at the moment (no free descriptor, for example), which is not the same as unknown.

    It reads the kernel's lists, as psutil does, and starts nothing, so it may be called again at any time.
    """
    logical = _online(cpus)
    try:
        names = os.listdir(cpus)  # noqa: PTH208 - Path's own keep quiet about what fails
    except FileNotFoundError:
        names = []
    siblings = {_siblings(cpus / name) for name in names if name[:3] == "cpu" and name[3:].isdigit()} - {""}
    physical = len(siblings) or _by_cpuinfo(_read(cpuinfo))
    if physical:
        return physical, f"physical cores, of {logical} logical"
    return logical, "logical CPUs, as the number of physical cores is unknown"


def _online(cpus: Path) -> int:
    """How many logical CPUs are online.

    os.cpu_count() and os.sysconf() read the same file, but while they do so no other thread can run: if lxcfs serves
    it and hangs, the event loop would hang, too.
    """
    return _listed(_read(cpus / "online")) or os.cpu_count() or 1


def _listed(numbers: str) -> int:
    """How many numbers are in one of the kernel's lists (``0-3,8``); 0 if it is none."""
    count = 0
    for part in filter(None, numbers.split(",")):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal():
            return 0
        count += int(last) - int(first) + 1
    return count


def _by_cpuinfo(text: str) -> int:
    """The sum of all sockets' cores; 0 if the file does not tell."""
    sockets: dict[str, int] = {}
    for cpu in text.split("\n\n"):
        fields = dict(line.replace("\t", "").split(": ", 1) for line in cpu.splitlines() if ": " in line)
        if "physical id" in fields and fields.get("cpu cores", "").isdigit():
            sockets[fields["physical id"]] = int(fields["cpu cores"])
    return sum(sockets.values())


def _siblings(cpu: Path) -> str:
    """The CPUs that share this one's core; empty if it is offline or the kernel does not tell."""
    for name in ("core_cpus_list", "thread_siblings_list"):  # the second before Linux 5.3
        if told := _read(cpu / "topology" / name):
            return told
    return ""


def quota(cgroups: Iterable[str], mountinfo: Path = MOUNTINFO) -> float | None:
    """How many cores all these cgroups together may use: the sum of their limits (``cpu.max``, cpusets), each limited
    by its parents. None if one of them has no limit or does not exist. Raises OSError if that cannot be read at the
    moment.

    ``cgroups`` are paths below the cgroup mounts, as in ``workers.cgroups``.
    """
    hierarchies = list(_hierarchies(mountinfo))
    wanted = {cgroup.strip("/") for cgroup in cgroups}
    # These cgroups and their parents, without those that are below another one of them.
    below: dict[str, set[str]] = {}
    for cgroup in wanted:
        parents = [str(parent) if str(parent) != "." else "" for parent in Path(cgroup).parents]
        if not wanted.intersection(parents):
            for child, parent in pairwise([cgroup, *parents]):
                below.setdefault(parent, set()).add(child)

    def allowed(cgroup: str) -> float | None:
        limits = [_limit(hierarchies, cgroup)]
        if cgroup in below:
            of_children = [allowed(child) for child in below[cgroup]]
            limits.append(None if None in of_children else sum(filter(None, of_children)))
        return min((limit for limit in limits if limit is not None), default=None)

    return allowed("")


def _hierarchies(mountinfo: Path) -> Iterator[Path]:
    """Where cgroup hierarchies are mounted that can limit CPUs."""
    for mount in mounts(_read(mountinfo)):
        if mount.kind == "cgroup2" or (mount.kind == "cgroup" and {"cpu", "cpuset"} & mount.options.keys()):
            yield Path(mount.point)


def _limit(hierarchies: list[Path], cgroup: str) -> float | None:
    """How many cores one cgroup may use by its own settings; None: no limit."""
    if not cgroup:
        return None  # the root cgroup has none
    limits = []
    for mount in hierarchies:
        home = mount / cgroup
        limits += [_bandwidth(home), _cpuset(home)]
    return min((limit for limit in limits if limit is not None), default=None)


def _read(path: Path) -> str:
    """A file's content; empty if there is no file or it does not apply. Raises OSError if it could not be read, which
    is not the same."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError as error:
        if error.errno in NOT_TOLD:
            return ""
        raise


def _bandwidth(home: Path) -> float | None:
    """Of ``cpu.max`` (v2: ``max 100000`` or quota and period), or of v1's two files (-1: no limit)."""
    words = _read(home / "cpu.max").split() or [_read(home / "cpu.cfs_quota_us"), _read(home / "cpu.cfs_period_us")]
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit():
        return None
    return int(words[0]) / int(words[1]) if int(words[1]) else None


def _cpuset(home: Path) -> float | None:
    """How many CPUs a cpuset has, if it has fewer than the machine."""
    cpus = _read(home / "cpuset.cpus.effective") or _read(home / "cpuset.effective_cpus") or _read(home / "cpuset.cpus")
    count = _listed(cpus)
    return float(count) if 0 < count < _online(CPUS) else None
