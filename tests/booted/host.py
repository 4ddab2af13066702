"""The machine that runs the tests: its programs, processes and cgroups; and waiting with a deadline."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

COMMAND_DEADLINE_S = 60


class NotInTimeError(AssertionError):
    """A condition did not come to hold before its deadline."""

    def __init__(self, what: str, deadline_s: float) -> None:
        super().__init__(f"not within {deadline_s:g} s: {what}")


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = COMMAND_DEADLINE_S) -> None:
    """Poll a condition until it holds; NotInTimeError naming `what` after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise NotInTimeError(what, deadline_s)
        time.sleep(0.02)


def missing_for_boot() -> str | None:
    """What keeps this machine from booting another, with the remedy; None when nothing does."""
    if os.geteuid() != 0:
        return "booting a machine needs root: run the tests as root"
    for command, package in (("systemd-nspawn", "systemd-container"), ("nsenter", "util-linux")):
        if shutil.which(command) is None:
            return f"no {command}: install the package {package}"
    return None


def own_cgroups() -> list[Path]:
    """Where a cgroup below the tests' own would be, in each hierarchy that systemd uses.

    nspawn puts a machine into `payload` below the cgroup it is started in: two machines started from one
    cgroup would share theirs, and each init would end the other's services.
    """
    root = Path("/sys/fs/cgroup")
    hierarchies = {
        "": root / "unified" if (root / "unified").is_dir() else root,
        "name=systemd": root / "systemd",
    }
    places = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in hierarchies:
            places.append(hierarchies[controllers] / path.lstrip("/"))
    return places


def cgroup_is_removed(group: Path) -> bool:
    """Remove a cgroup with those below it; False while the kernel still counts a process in it."""
    try:
        for place, _, _ in os.walk(group, topdown=False):
            Path(place).rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def children(pid: int) -> list[int]:
    """The children of a process; none where it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status; none where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
