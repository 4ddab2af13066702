"""One scan, for people: what the agent would reply, and what that is based on."""

import json
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent._scan import Scanner, Snapshot, Worker
from agent.config.schema import Config
from agent.operate import status
from agent.sampling import capacity, host
from agent.weight.pools import PoolReply, ReplyBuilder

if TYPE_CHECKING:
    from agent._scan import Reading


# CPU time is judged over at least 200 ms (rust/effort.rs).
WINDOW_S = 0.25


@dataclass(frozen=True, slots=True)
class Found:
    """What one scan found, and the replies for it."""

    pools: list[str]
    snapshot: Snapshot
    said: list[PoolReply]
    workers: list[Worker]
    refused: list[str]


def check(config: Config, scanner: Scanner | None = None, cores: int | None = None) -> Found:
    """Scans once, or twice if CPU time counts, with its own scanner if none is given. ``cores`` are physical; by
    default the machine's.

    Raises OSError (no procfs root) or RuntimeError (the scan failed)."""
    cores = cores or capacity.cores()[0]
    scanner = scanner or host.open_scanner(config, detail=True)
    snapshot = scanner.scan()
    if any(pool.workers.now == "cpu" or pool.weight.count == "cpu" or pool.weight.others for pool in config.all_pools):
        # CPU use shows only at the second scan.
        time.sleep(WINDOW_S)
        snapshot = scanner.scan()
    builder = ReplyBuilder(config.rules(cores, capacity.quota), config.reply.health)
    whole = snapshot.whole or config.scan.pid_namespace == "any"
    said = builder.build(snapshot.pools, 0.0, visible=snapshot.visible, whole=whole, no_sample_reason="")
    return Found([pool.name for pool in config.all_pools], snapshot, said, scanner.workers(), scanner.refused)


def show_title(title: bytes) -> str:
    """A title for a terminal: printable, whatever a process wrote there."""
    text = title.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show_reading(reading: "Reading") -> str:
    """``3 of 10 busy, stopping`` or ``unparsable``."""
    if isinstance(reading, tuple):
        busy, total, stopping = reading
        return f"{busy} of {total} busy" + (", stopping" if stopping else "")
    return reading or "no"


def _remark(worker: Worker) -> str:
    if worker.copy:
        return " (forked copy, not counted)"
    if worker.quarantined:
        return " (quarantined, last reading)"
    idle = all(reading[0] == 0 for reading in worker.readings if isinstance(reading, tuple))
    return " (working now)" if worker.works_for_ms and idle else ""


def _pool_readings(found: Found, worker: Worker) -> list[tuple[str, "Reading"]]:
    return [(pool, r) for pool, r in zip(found.pools, worker.readings, strict=True) if r is not None]


def table(found: Found) -> str:
    """What was counted, a line each: pid, user, reading, title."""
    rows = [("PID", "USER", "READING", "TITLE")]
    for worker in found.workers:
        readings = "; ".join(
            (f"{pool}: " if pool else "") + show_reading(r) for pool, r in _pool_readings(found, worker)
        )
        user = host.user_name(worker.uid)
        rows.append((str(worker.pid), user, readings + _remark(worker), show_title(worker.title)))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows)
    return "\n".join(lines) + "\n"


def as_json(found: Found) -> bytes:
    """All of it, as one JSON object."""
    snapshot = found.snapshot
    pools = {
        said.pool or "default": {
            "reply": said.line.decode(),
            "weight": said.decision.weight,
            "reason": said.decision.reason,
            "known": said.decision.known,
            **status.counts(of),
        }
        for said, of in zip(found.said, snapshot.pools or [], strict=False)
    }
    workers: list[dict[str, Any]] = [
        {
            "pid": w.pid,
            "user": host.user_name(w.uid),
            "title": show_title(w.title),
            "readings": {pool or "default": r for pool, r in _pool_readings(found, w)},
            "copy": w.copy,
            "quarantined": w.quarantined,
            "works_for_ms": w.works_for_ms,
            "cores_milli": w.cores_milli,
        }
        for w in found.workers
    ]
    report = {
        "reply": found.said[0].line.decode(),
        "weight": found.said[0].decision.weight,
        "reason": found.said[0].decision.reason,
        "known": found.said[0].decision.known,
        "visible": snapshot.visible,
        "discovery": snapshot.discovery,
        "processes": snapshot.processes,
        "vanished": snapshot.vanished,
        "unreadable": snapshot.unreadable,
        "cpu_untold": snapshot.cpu_untold,
        "scan_ms": round(snapshot.took_ns / 1e6, 3),
        "pools": pools,
        "workers": workers,
    }
    return (json.dumps(report, indent=2) + "\n").encode(sys.getfilesystemencoding())
