"""PURE. Times at which jobs began and ended, and HAProxy's weight over time -> how late the weight was, and wrong
weights.

Times are seconds of one clock. The capacity is two jobs; one worker takes jobs, one at a time, and another never has
one: a weight of 100 means that no worker has a job, 50 that one has, and 0 that the other one counted too.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

FREE, ONE_JOB = 100, 50


@dataclass(frozen=True)
class Job:
    """One job, as it reports itself."""

    began_s: float
    ended_s: float


@dataclass(frozen=True)
class Seen:
    """HAProxy's weight from that moment on."""

    at_s: float
    weight: int


@dataclass(frozen=True)
class Delay:
    """How long the weight took to follow a job's start, and its end; None if it never did."""

    start_s: float | None
    end_s: float | None


def weight_at(seen: Sequence[Seen], at_s: float) -> int:
    """The weight at a moment."""
    return seen[max(0, bisect.bisect_right(seen, at_s, key=lambda each: each.at_s) - 1)].weight


def first(seen: Sequence[Seen], weight: int, since_s: float) -> float | None:
    """When the weight was that for the first time since."""
    if weight_at(seen, since_s) == weight:
        return since_s
    return next((each.at_s for each in seen if each.at_s > since_s and each.weight == weight), None)


def delay(job: Job, seen: Sequence[Seen]) -> Delay:
    """How late the weight was for one job. A start followed only after the job's end was never followed."""
    started_s = first(seen, ONE_JOB, job.began_s)
    freed_s = first(seen, FREE, job.ended_s)
    return Delay(
        None if started_s is None or started_s >= job.ended_s else started_s - job.began_s,
        None if freed_s is None else freed_s - job.ended_s,
    )


def idle_counted(jobs: Sequence[Job], seen: Sequence[Seen]) -> list[Seen]:
    """Weights that count an idle worker as busy: the one that never has a job, or the other one between its jobs, once
    the weight had followed the end of the last one."""
    freed = [(job.began_s, first(seen, FREE, job.ended_s) or float("inf")) for job in jobs]
    return [
        each
        for each in seen
        if each.weight != FREE
        and (each.weight != ONE_JOB or not any(began <= each.at_s < until for began, until in freed))
    ]


def gaps(jobs: Sequence[Job], seen: Sequence[Seen]) -> int:
    """How often a job that had been followed stopped counting before its end."""
    return sum(
        each.weight == FREE and job.began_s + (delay(job, seen).start_s or 0) < each.at_s < job.ended_s
        for job in jobs
        if delay(job, seen).start_s is not None
        for each in seen
    )
