"""PURE. What the live view shows: two successive answers of the agent, and the polling rate between them."""

from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class View:
    """The agent's answers to ``status`` and ``workers`` (docs/control.md), and polls per second by poller: None if
    there is no earlier answer."""

    status: dict[str, Any]
    workers: list[dict[str, Any]]
    workers_count: int
    paces: dict[str, float] | None

    @classmethod
    def of(
        cls, status: dict[str, Any], workers: list[dict[str, Any]], workers_count: int, before: "View | None"
    ) -> Self:
        """A view that continues from the previous one, if that was of the same agent."""
        paces = None
        if before and before.status["agent"]["pid"] == status["agent"]["pid"]:
            since_s = status["agent"]["uptime_s"] - before.status["agent"]["uptime_s"]
            counted = {poller["address"]: poller["polls"] for poller in before.status["polls"]["pollers"]}
            if since_s > 0:
                paces = {
                    poller["address"]: max(0, poller["polls"] - counted.get(poller["address"], 0)) / since_s
                    for poller in status["polls"]["pollers"]
                }
        return cls(status, workers, workers_count, paces)


def columns(history: list[tuple[float, int | None]], span_s: float, count: int) -> list[int | None]:
    """The weight in each of ``count`` equal parts of the last ``span_s`` seconds, oldest first: the lowest that was
    sent in it, None if none was sent. The parts before the history starts are left out.

    ``history`` has (seconds ago, weight); each lasts until the next, the last until now.
    """
    found: list[int | None] = [None] * count
    begin = count
    ends = [ago_s for ago_s, _ in history[1:]] + [0.0]
    for (from_s, weight), to_s in zip(history, ends, strict=False):
        if to_s > span_s:
            continue
        first = int((span_s - min(from_s, span_s)) / span_s * count)
        begin = min(begin, first)
        if weight is None:
            continue
        # A weight does not count in a part that it barely touches, except in the newest.
        last = int((span_s - to_s) / span_s * count - 1e-9)
        for i in range(first, min(last, count - 1) + 1):
            known = found[i]
            found[i] = weight if known is None else min(known, weight)
    return found[begin:]
