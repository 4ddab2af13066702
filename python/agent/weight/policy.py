"""PURE. Snapshot -> weight, and the reason for it.

All decisions are made here: the formula, the floor, the slow rise, and when the host's
state is unknown. No clock, no sockets, no process: times and counts are passed in.
"""

from dataclasses import dataclass
from typing import Protocol


class Counts(Protocol):
    """What a scan adds up for one pool; see ``_scan.pyi``."""

    @property
    def workers(self) -> int: ...
    @property
    def readable(self) -> int: ...
    @property
    def busy_processes(self) -> int: ...
    @property
    def busy_threads(self) -> int: ...
    @property
    def total_threads(self) -> int: ...
    @property
    def untitled(self) -> int: ...
    @property
    def cores_milli(self) -> int: ...
    @property
    def others_milli(self) -> int: ...
    @property
    def unparsable(self) -> int: ...
    @property
    def quarantined(self) -> int: ...
    @property
    def unread(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """How one pool's counts become a weight.

    ``count`` is ``processes`` or ``threads`` with a job, or ``cpu``, the cores that workers use.
    ``capacity`` is a number of the same unit, or None for the sum of all threads.
    ``rise_per_s`` is in percent of full weight per second, None for at once. ``unknown`` is a weight in percent, None
    to leave HAProxy's weight as it is.
    """

    count: str = "processes"
    capacity: float | None = 1
    floor: int = 0
    rise_per_s: float | None = None
    unknown: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision about a pool. ``weight`` is in percent; with None the reply has no weight.

    ``known`` tells whether the weight is based on counts.
    """

    weight: int | None
    reason: str
    known: bool


def formula(busy: float, capacity: float) -> int:
    """The free share of a host in percent, rounded with Python's ``round``: exactly the original script's expression,
    and 0 if the host is full or more than full."""
    if busy <= 0:
        return 100
    if busy >= capacity:
        return 0
    return round(100 * (1 - busy / capacity))


def unknown_reason(rule: Rule, counts: Counts, *, visible: bool, whole: bool, hidden: int) -> str | None:
    """Why this pool's state is unknown, or None if it is known.

    What cannot be seen is never taken for idle. A fully visible host (``whole``) without any worker is idle; a host
    on which no worker can be read is not. If only some workers can be read, the others may all be idle or all be
    busy; if that decides whether the host is full, the state is unknown. It is also unknown if the name filter
    excludes all workers (``hidden``).
    """
    if not visible:
        return "cannot see processes"
    blind = counts.unparsable + counts.unread
    if not whole and counts.workers + blind == 0:
        return "sees no workers, nor the whole host"
    if hidden and counts.workers + blind == 0:
        return f"workers.comm hides all {hidden} workers"
    if counts.readable == 0:
        if counts.unparsable:
            return "cannot read titles"
        if counts.quarantined:
            return "readers hang"
    busy, capacity = usage(rule, counts)
    if rule.capacity is None:
        decides = blind > 0 and blind >= counts.readable
    else:
        threads = counts.total_threads / counts.workers if rule.count == "threads" and counts.workers else 1
        decides = busy < capacity <= busy + blind * threads
    return f"cannot read {blind} workers" if decides else None


def usage(rule: Rule, counts: Counts) -> tuple[float, float]:
    """Busy and capacity of a pool, in the rule's unit. Cores that others use count as busy too."""
    busy = {
        "processes": counts.busy_processes,
        "threads": counts.busy_threads,
        "cpu": counts.cores_milli / 1000,
    }[rule.count] + counts.others_milli / 1000
    return busy, counts.total_threads if rule.capacity is None else rule.capacity


def _shown(number: float) -> str:
    """Whole numbers as such, others with one decimal: more would be noise."""
    return f"{number:.0f}" if number == int(number) else f"{number:.1f}"


def _reason(rule: Rule, counts: Counts) -> str:
    busy, capacity = usage(rule, counts)
    unit = "cores busy" if rule.count == "cpu" else "busy"
    shown = str(int(capacity) if capacity == int(capacity) else capacity)
    parts = [f"{_shown(busy)}/{shown} {unit}"]
    if counts.untitled and rule.count != "cpu":
        parts.append(f"{counts.untitled} untitled")
    if counts.others_milli:
        parts.append(f"{_shown(counts.others_milli / 1000)} by others")
    return ", ".join(parts)


def decide(rule: Rule, counts: Counts, *, visible: bool, whole: bool = True, hidden: int = 0) -> Decision:
    """The weight for a pool's counts, before the slow rise."""
    why = unknown_reason(rule, counts, visible=visible, whole=whole, hidden=hidden)
    if why:
        return unknown(rule, why)
    return Decision(max(rule.floor, formula(*usage(rule, counts))), _reason(rule, counts), known=True)


def unknown(rule: Rule, why: str) -> Decision:
    """The decision for an unknown state."""
    return Decision(rule.unknown, why, known=False)


def limit_rise(rule: Rule, wanted: int, before: tuple[float, float] | None, now_s: float) -> float:
    """The weight to send now: it falls at once, and rises no faster than the rule allows.

    ``before`` is the last weight sent and when, in seconds of the same clock as ``now_s``; None if none was sent yet.
    Returns a fraction, so that small steps add up over calls; send its ``int``.
    """
    if rule.rise_per_s is None or before is None:
        return wanted
    weight, at_s = before
    return min(wanted, weight + max(0.0, now_s - at_s) * rule.rise_per_s)
