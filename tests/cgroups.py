"""A cgroup of the tests' own, in the v2 hierarchy."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount() -> Path:
    """Where the v2 hierarchy is mounted; without one, the test cannot be."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ")
        if right.startswith("cgroup2 "):
            return Path(left.split()[4])
    message = "no cgroup2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def cgroup(name: str) -> Iterator[Path]:
    """A fresh cgroup, removed at the end with those below it; its processes must be gone by then."""
    top = mount() / f"{name}-{os.getpid()}"
    top.mkdir()
    try:
        yield top
    finally:
        deadline = time.monotonic() + 5
        for below in [*sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True), top]:
            while True:
                try:
                    below.rmdir()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
