"""WORLD. What this machine can do: its cores, and what cgroups may use of them.

It counts and never limits. The agent's own affinity and CPU quota do not count: a hardened unit must not make
a big host look small.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")


def cores() -> tuple[int, str]:
    """The machine's physical cores, and where the number comes from."""
    physical, logical = _count_cpus()
    if physical:
        return physical, f"physical cores, of {logical} logical"
    return logical, "logical CPUs, since the machine does not tell its physical cores"


def _count_cpus() -> tuple[int, int]:
    """Physical (0: not known) and logical. A child asks psutil, so that half a megabyte which
    is wanted once is not carried along for years. Before any thread is started."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            import psutil

            os.write(writer, b"%d %d" % (psutil.cpu_count(logical=False) or 0, psutil.cpu_count() or 1))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        counts = answer.read().split()
    os.waitpid(child, 0)
    return (int(counts[0]), int(counts[1])) if counts else (0, os.cpu_count() or 1)


def quota(cgroups: Iterable[str], mountinfo: Path = MOUNTINFO) -> float | None:
    """The cores that all these cgroups together may use at most: the sum of their limits (``cpu.max``,
    cpusets), each no more than its parents allow. None where one of them has no limit, or is not there.

    ``cgroups`` are paths below the cgroup mounts, as in ``workers.cgroups``.
    """
    mounts = list(_mounts(mountinfo))
    wanted = {cgroup.strip("/") for cgroup in cgroups}
    # The tree of the wanted ones and their parents, without those below another wanted one.
    below: dict[str, set[str]] = {}
    for cgroup in wanted:
        parents = [str(parent) if str(parent) != "." else "" for parent in Path(cgroup).parents]
        if not wanted.intersection(parents):
            for child, parent in pairwise([cgroup, *parents]):
                below.setdefault(parent, set()).add(child)

    def allowed(cgroup: str) -> float | None:
        limits = [_limit(mounts, cgroup)]
        if cgroup in below:
            of_children = [allowed(child) for child in below[cgroup]]
            limits.append(None if None in of_children else sum(filter(None, of_children)))
        return min((limit for limit in limits if limit is not None), default=None)

    return allowed("")


def _mounts(mountinfo: Path) -> Iterator[Path]:
    """Where cgroup hierarchies are mounted that can limit CPUs (proc(5))."""
    for line in mountinfo.read_text(errors="replace").splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        controllers = options.split(" ")[-1].split(",")
        if kind == "cgroup2" or (kind == "cgroup" and {"cpu", "cpuset"} & set(controllers)):
            yield Path(left.split(" ")[4])


def _limit(mounts: list[Path], cgroup: str) -> float | None:
    """The cores that one cgroup may use by its own settings; None: no limit."""
    if not cgroup:
        return None  # the root has none
    limits = []
    for mount in mounts:
        home = mount / cgroup
        limits += [_bandwidth(home), _cpuset(home)]
    return min((limit for limit in limits if limit is not None), default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _bandwidth(home: Path) -> float | None:
    """Of ``cpu.max`` (v2: ``max 100000`` or quota and period), or of v1's two files (-1: no limit)."""
    words = _read(home / "cpu.max").split() or [_read(home / "cpu.cfs_quota_us"), _read(home / "cpu.cfs_period_us")]
    if len(words) != 2 or not words[0].isdigit() or not words[1].isdigit():
        return None
    return int(words[0]) / int(words[1]) if int(words[1]) else None


def _cpuset(home: Path) -> float | None:
    """How many CPUs a cpuset has, where it has fewer than the machine."""
    cpus = _read(home / "cpuset.cpus.effective") or _read(home / "cpuset.effective_cpus") or _read(home / "cpuset.cpus")
    count = 0
    for part in filter(None, cpus.split(",")):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return float(count) if 0 < count < (os.cpu_count() or 1) else None
