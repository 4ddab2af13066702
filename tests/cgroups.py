"""Cgroups for tests: in the v2 hierarchy to find workers by, and in either version to limit resources."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.missing import missing

# The hierarchies that have names for processes, and how each is mounted where it is not.
V2 = "cgroup2"
V1 = "name=systemd"
_MOUNTS = {
    V2: "mount -t cgroup2 none /sys/fs/cgroup/unified",
    V1: "mount -t cgroup -o none,name=systemd none /sys/fs/cgroup/systemd",
}


def mount(hierarchy: str = V2) -> Path:
    """Where that hierarchy is mounted; without it, the test cannot be."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        if hierarchy in (right.split()[0], *right.split()[-1].split(",")):
            return Path(left.split()[4])
    return missing(f"no {hierarchy} hierarchy is mounted: {_MOUNTS[hierarchy]}")


@contextmanager
def cgroup(name: str, hierarchy: str = V2) -> Iterator[Path]:
    """A fresh cgroup, removed at the end with those below it; its processes must be gone by then."""
    with _fresh(mount(hierarchy) / f"{name}-{os.getpid()}") as fresh:
        yield fresh


@contextmanager
def _fresh(top: Path) -> Iterator[Path]:
    try:
        top.mkdir()
    except PermissionError as refused:
        missing(f"{refused}: run the tests as root")
    try:
        yield top
    finally:
        deadline = time.monotonic() + 30
        for below in [*sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True), top]:
            while True:
                try:
                    below.rmdir()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)


@contextmanager
def controlled(controller: str, name: str) -> Iterator[Path]:
    """A fresh cgroup in which `pids`, `memory` or `cpu` can be limited, in whichever hierarchy has it here."""
    old = Path("/sys/fs/cgroup") / controller
    top = old if (old / "cgroup.procs").exists() else mount()
    if top != old:
        (top / "cgroup.subtree_control").write_text(f"+{controller}")
    with _fresh(top / f"{name}-{os.getpid()}") as fresh:
        yield fresh


def limit(group: Path, **values: str) -> None:
    """Writes limits by their v2 names, with `_` for `.` (`pids_max`, `memory_max`, `cpu_max`), into a cgroup of
    either version."""
    for key, value in values.items():
        if (group / key.replace("_", ".")).exists():
            (group / key.replace("_", ".")).write_text(value)
        elif key == "memory_max":
            (group / "memory.limit_in_bytes").write_text(value)
        else:
            quota_us, period_us = value.split()
            (group / "cpu.cfs_period_us").write_text(period_us)
            (group / "cpu.cfs_quota_us").write_text(quota_us)
