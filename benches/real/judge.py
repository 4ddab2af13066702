"""PURE. Measurements of the real fleet and of the model -> capacities, and whether the two agree."""

import math
from itertools import combinations
from typing import Any

Results = dict[str, Any]

GOOD_S = 1.0
# Arrangements that differ by less are equal: a share of the larger value; for job_slowdown the plain difference.
APART = {"goodput": 0.08, "p95_s": 0.2, "job_slowdown": 0.03}


def busy_until(at: float, times: list[tuple[float, float]]) -> float:
    """How long there was a job up to that moment, from the times at which each began and ended."""
    return sum(max(0.0, min(at, ended) - began) for began, ended in times)


def held(stairs: list[tuple[float, float]]) -> float | None:
    """The load at which p95 reaches a second, interpolated by logarithm between steps of (load, p95). If p95 stays
    below, the last load; if it never was below, None."""
    found = None
    before: tuple[float, float] | None = None
    for load, p95_s in stairs:
        if p95_s < GOOD_S:
            found, before = load, (load, p95_s)
            continue
        if before is None:
            return None
        share = math.log(GOOD_S / before[1]) / math.log(p95_s / before[1])
        return before[0] + share * (load - before[0])
    return found


def apart(metric: str, one: float, other: float) -> bool:
    """Whether the two differ by more than noise."""
    return abs(one - other) > APART[metric] * (1 if metric == "job_slowdown" else max(abs(one), abs(other)))


def disagreements(real: Results, model: Results) -> list[str]:
    """Pairs of arrangements that differ in the model, but of which the real fleet does not have the same one ahead, in
    any window of a scenario."""
    found = []
    for scenario, arrangements in model.items():
        for first, second in combinations(arrangements, 2):
            for window in arrangements[first]:
                for metric in APART:
                    one, other = (arrangements[name][window][metric] for name in (first, second))
                    mine, yours = (real[scenario][name][window][metric] for name in (first, second))
                    if apart(metric, one, other) and (one - other) * (mine - yours) <= 0:
                        found.append(f"{scenario}, {window}: {metric} of {first} and {second}")
    return found
