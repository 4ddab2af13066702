"""A slow, naive twin of the scanner: plain Python over the whole of /proc, once.

It shares no code with the scanner, so that the two can only agree by being right.
"""

import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path

Readings = dict[int, tuple[int, int, bool] | str]

_BRACKET = re.compile(rb"\[(\d{1,6}) of (\d{1,6}) busy\]")


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def sidekiq(cmdline: bytes) -> tuple[int, int, bool] | str | None:
    """What a Sidekiq's title says, by a regular expression."""
    title = cmdline.split(b"\0")[0]
    if not re.match(rb"sidekiq \d", title):
        return None
    last = title.rfind(b" busy]")
    for match in _BRACKET.finditer(title):
        if match.end() == last + len(b" busy]") and int(match[1]) <= int(match[2]):
            return int(match[1]), int(match[2]), re.match(rb" +stopping( |$)", title[match.end() :]) is not None
    return "unparsable"


def _in_cgroup(pid: int, below: str) -> bool:
    paths = [line.split(b":", 2)[2].decode() for line in _read(pid, "cgroup").splitlines() if line.startswith(b"0::")]
    return any(path == below or path.startswith(below + "/") for path in paths)


def look(comm: Sequence[str], *, cgroup: str | None = None) -> Readings:
    """Every worker there is now, by pid; forked copies left out."""
    found: Readings = {}
    parents: dict[int, int] = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):  # noqa: PTH208 - names only
        name = _read(pid, "comm").removesuffix(b"\n").decode(errors="surrogateescape")
        if not any(fnmatch.fnmatchcase(name, glob) for glob in comm):
            continue
        reading = sidekiq(_read(pid, "cmdline"))
        stat = _read(pid, "stat")
        if reading is None or not stat or (cgroup is not None and not _in_cgroup(pid, cgroup)):
            continue
        found[pid] = reading
        parents[pid] = int(stat[stat.rindex(b")") + 2 :].split()[1])
    return {pid: reading for pid, reading in found.items() if parents[pid] not in found}
