"""The contestants written in Python, one per process: `python -m benches.scan.contestants NAME [CGROUP]`.

The protocol, which rawscan.c speaks too: At the start one object with the `cpu_ns` of getting ready, or `unavailable`
with a reason. Then for each line `scan` or `nothing`: `cpu_ns` (user and system, all threads), `user_ns` and
`sys_ns` (getrusage; the kernel's estimate), `wall_ns`; `busy` from those that read titles, which the bench checks;
`rechecked` from busyweight. `memory`: `private_bytes` of this process.
"""

import functools
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benches.original import original_scan

KEPT_MAX = 8192  # files busyweight may keep open

Scan = Callable[[], dict[str, int]]


def psutil_scan() -> int:
    """psutil used as well as it can be: its cached processes, the name first, cmdline only where it fits."""
    busy = 0
    for process in psutil.process_iter():
        try:
            if process.name().startswith(("ruby", "sidekiq", "bundle")):
                title = process.cmdline()
                busy += bool(title) and title[0].startswith("sidekiq ") and "[0 of " not in title[0]
        except psutil.Error:
            continue
    return busy


class UnavailableError(Exception):
    """This way of finding processes is not available here."""


def busyweight(discovery: str, cgroup: str) -> Scan:
    """busyweight's own scanner with one discovery; this is the bench's only knowledge of it."""
    try:
        from agent import _scan
    except ImportError as error:
        raise UnavailableError(f"the extension is not built: {error}") from error
    if discovery == "cgroup" and not cgroup:
        raise UnavailableError("no cgroup v2 hierarchy to make a group in")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # as a service's unit does
    # CPU times are asked for, too, as by default (workers.now).
    selector = _scan.Selector("sidekiq", cgroups=[cgroup] if discovery == "cgroup" else [], now=True)
    scanner = _scan.Scanner("/proc", discovery, [selector], kept_max=KEPT_MAX)
    if scanner.refused:
        raise UnavailableError("; ".join(scanner.refused))

    def scan() -> dict[str, int]:
        snapshot = scanner.scan()
        if snapshot.discovery != discovery:
            raise UnavailableError(f"fell back to {snapshot.discovery}: {scanner.fallback()}")
        return {"busy": snapshot.pools[0].busy_processes, "rechecked": snapshot.rechecked}

    return scan


def contestant(name: str, cgroup: str) -> Scan:
    """The scan of that name, ready to be called."""
    ways: dict[str, Callable[[], Scan]] = {
        "original": lambda: lambda: {"busy": original_scan()},
        "psutil": lambda: lambda: {"busy": psutil_scan()},
        **{f"busyweight-{way}": functools.partial(busyweight, way, cgroup) for way in ("sweep", "cgroup", "ebpf")},
    }
    return ways[name]()


def nothing() -> dict[str, int]:
    """Only the round trip."""
    return {}


def measure(scan: Scan) -> dict[str, int]:
    """One call of `scan`, and what it cost this process."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    wall, cpu = time.monotonic_ns(), time.process_time_ns()
    seen = scan()
    cpu, wall = time.process_time_ns() - cpu, time.monotonic_ns() - wall
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu_ns": cpu,
        "user_ns": int((after.ru_utime - before.ru_utime) * 1e9),
        "sys_ns": int((after.ru_stime - before.ru_stime) * 1e9),
        "wall_ns": wall,
        **seen,
    }


def private_bytes() -> dict[str, int]:
    """The memory that only this process uses."""
    rollup = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return {"private_bytes": 1024 * sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))}


def main() -> None:
    """Answers commands until the input ends."""

    def tell(answer: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    begun = time.process_time_ns()
    try:
        scan = contestant(sys.argv[1], sys.argv[2])
        tell({"cpu_ns": time.process_time_ns() - begun})
        for line in sys.stdin:
            match line.strip():
                case "memory":
                    tell(private_bytes())
                case "nothing":
                    tell(measure(nothing))
                case _:
                    tell(measure(scan))
    except UnavailableError as error:
        tell({"unavailable": str(error)})


if __name__ == "__main__":
    main()
