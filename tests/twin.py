"""A slow, naive twin of the scanner: plain Python over all of /proc, once.

It shares no code with the scanner, so the two can agree only by being right.
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


def faktory(cmdline: bytes) -> tuple[int, int, bool] | str | None:
    """What a Faktory worker's title says: a Sidekiq's but for its name and its last words."""
    title = cmdline.split(b"\0")[0]
    if not title.startswith(b"faktory-worker "):
        return None
    reading = sidekiq(title.replace(b"faktory-worker ", b"sidekiq ", 1))
    if not isinstance(reading, tuple):
        return reading
    last_words = title[title.rfind(b" busy]") + len(b" busy]") :].split(b" ")[1:]
    return (*reading[:2], b"stopping" in last_words or b"quiet" in last_words)


def _one_job(state: bytes, idle: set[bytes], busy: set[bytes]) -> tuple[int, int, bool] | str:
    return (0, 1, False) if state in idle else (1, 1, False) if state in busy else "unparsable"


def resque(cmdline: bytes) -> tuple[int, int, bool] | str | None:
    """What a Resque worker's title says: the word after its name and version."""
    found = re.search(
        rb"(?:resque|pyres_worker)-\d[^: ]*(?: \([^)]*\))?(?: \[[^\]]*\])?: +(?:\[[^\]]*\] *)?([^ ]*)",
        cmdline.split(b"\0")[0],
    )
    if found:
        return _one_job(found[1], {b"Waiting", b"Paused", b"Starting"}, {b"Processing", b"Forked"})
    early = re.match(rb"resque: +([^ ]*)", cmdline.split(b"\0")[0])
    return early and _one_job(early[1], {b"Starting"}, set())


def rq(cmdline: bytes) -> tuple[int, int, bool] | str | None:
    """What an RQ worker's title says: the first known word after a colon."""
    title = cmdline.split(b"\0")[0]
    if not title.startswith((b"rq:worker:", b"rq: ")):
        return None
    idle, busy = {b"Listening", b"Started", b"Suspended", b"Cleaning", b"Idle"}, {b"Processing", b"Forked", b"Spawned"}
    states = re.findall(rb"(?=: +([^ ]*))", title.removeprefix(b"rq:worker:"))
    return next((_one_job(state, idle, busy) for state in states if state in idle | busy), "unparsable")


def postgres(cmdline: bytes) -> tuple[int, int, bool] | str | None:
    """What a PostgreSQL backend's title says: the word after its client's address."""
    title = cmdline.split(b"\0")[0]
    if not title.startswith(b"postgres: "):
        return None
    rest = title[len(b"postgres: ") :]
    cluster, colon, after = rest.partition(b": ")
    words = [word for word in (after if colon else cluster).split(b" ") if word]
    for i, word in enumerate(words[2:], start=2):
        if word == b"[local]" or re.fullmatch(rb"[^(].*\(.*\)|[^(]+\(.*\)", word, re.DOTALL):
            if words[0] == b"walsender" or words[:3] == [b"wal", b"sender", b"process"]:
                return None
            activity = words[i + 1 : i + 2]
            return "unparsable" if not activity else (int(activity != [b"idle"]), 1, False)
    return None


def busyweight(cmdline: bytes) -> tuple[int, int, bool] | str | None:
    """What the words that busyweight's own Ruby file appends to a title say: the last of them count."""
    *before, counts = cmdline.split(b"\0")[0].split(b" | busyweight [")
    found = re.match(rb"(\d{1,6}) of (\d{1,6}) busy\]", counts)
    if found and before and int(found[1]) <= int(found[2]):
        return int(found[1]), int(found[2]), False
    return "unparsable" if before else None


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
