"""Counts as a scan adds them up."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Counted:
    """Counts as a scan adds them up."""

    workers: int = 0
    readable: int = 0
    busy_processes: int = 0
    busy_threads: int = 0
    total_threads: int = 0
    unparsable: int = 0
    quarantined: int = 0
    unread: int = 0
    untitled: int = 0
    cores_milli: int = 0
    others_milli: int = 0


def busy(processes: int, of: int = 30) -> Counted:
    return Counted(of, of, processes, 3 * processes, 10 * of)
