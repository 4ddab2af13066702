"""PURE. What happens to the fleet, real or modelled: shorter scenarios of the fleet bench, for the real hosts' cores.

Rates and durations are per core, so a scenario is the same however fast a core is: a request takes 0.3 to 0.4 s of one.
"""

from dataclasses import replace

from benches.fleet.parts import Arrangement
from benches.fleet.scenarios import (
    BUSYWEIGHT,
    DEDICATED,
    JOB_HOSTS,
    REQUEST_CPU_S,
    STATIC,
    Scenario,
    full,
    gusts,
    in_order,
    load,
)
from benches.real.hosts import CORES, HOSTS, WEB_HOSTS

ARRANGEMENTS = (DEDICATED, STATIC, replace(BUSYWEIGHT, maxconn=CORES))
HOST_MAX = CORES / (sum(REQUEST_CPU_S) / 2)  # requests/s that one host's cores can serve
THREE_MAX = len(WEB_HOSTS) * HOST_MAX
MANY = 40  # jobs for a host, more than its workers finish in a run

STAIRS, STAIR_S, SETTLES_S = (0.65, 0.75, 0.85, 0.95), 12.0, 2.0
STAIR = "stair {share:g}"


def capacity(arrangement: Arrangement) -> Scenario:
    """Idle job hosts, and a load that rises step by step: shares of what the serving hosts can handle."""
    most = (len(WEB_HOSTS) if arrangement.web_only else HOSTS) * HOST_MAX
    begins = [index * STAIR_S for index in range(len(STAIRS))]
    return Scenario(
        "capacity",
        "",
        len(STAIRS) * STAIR_S,
        tuple(load(at, share * most) for at, share in zip(begins, STAIRS, strict=True)),
        {STAIR.format(share=share): (at + SETTLES_S, at + STAIR_S) for at, share in zip(begins, STAIRS, strict=True)},
    )


def night() -> Scenario:
    """Half of what three hosts can serve; then jobs hold all cores of the job hosts; then a spike on top."""
    return Scenario(
        "night",
        "Night batch on all cores of the job hosts, half of what three hosts can take; from second 33 on 1.25 times",
        56,
        in_order([load(0, THREE_MAX / 2), *full(5, JOB_HOSTS, jobs=MANY), load(33, 1.25 * THREE_MAX)]),
        {"onset": (5, 13), "night": (13, 33), "spike": (36, 56)},
    )


def windy() -> Scenario:
    """Jobs that come and go between two heartbeats."""
    every, count = 13.07, 3
    return Scenario(
        "gusts",
        f"Gusts: each {every:.0f} s, {CORES} jobs of 4 s on every job host, half of what three hosts can take",
        4 + every * count,
        in_order([load(0, THREE_MAX / 2), *gusts(4, every, count, JOB_HOSTS, 4, workers=CORES)]),
        {"gusts": (4, 4 + every * count)},
    )


def requests_alone() -> Scenario:
    """What a request takes if it has a core to itself: mostly one at a time."""
    return Scenario("requests alone", "", 12, (load(0, 5),), {"all": (1, 12)})
