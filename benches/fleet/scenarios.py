"""What happens to the fleet: load, jobs and accidents over model time, as data.

Hosts 0-2 are web hosts, 3-6 job hosts. Rates are requests per second, times model seconds, job lengths CPU seconds.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from benches.fleet.parts import CORES, Arrangement

REQUEST_CPU_S = (0.3, 0.4)
HOST_MAX = CORES / (sum(REQUEST_CPU_S) / 2)  # requests/s that one host's cores can serve
WEB_HOSTS, JOB_HOSTS = range(3), range(3, 7)
THREE_MAX, SEVEN_MAX = 3 * HOST_MAX, 7 * HOST_MAX
NORMAL = 60.0
MANY = 10_000_000
MAXCONN = CORES  # as in the snippet

DEDICATED = Arrangement("dedicated", web_only=True)
STATIC = Arrangement("static")
BUSYWEIGHT = Arrangement("busyweight", agent="real", maxconn=MAXCONN)
ORACLE = Arrangement("oracle", oracle=True)
STATIC_LEASTCONN = Arrangement("static leastconn", balance="leastconn")
BUSYWEIGHT_LEASTCONN = Arrangement("busyweight leastconn", agent="real", balance="leastconn", maxconn=MAXCONN)
BUSYWEIGHT_STOPPED = Arrangement("busyweight, stopped and started", agent="real", maxconn=MAXCONN)
MAIN = (DEDICATED, STATIC, BUSYWEIGHT, ORACLE)
ALL = (*MAIN, STATIC_LEASTCONN, BUSYWEIGHT_LEASTCONN)
AGENTS = (STATIC, BUSYWEIGHT, ORACLE)

# What an agent may base its reply on, and how often it is polled, with short jobs.
NOW = (
    STATIC,
    Arrangement("titles, agent-inter 2s", agent="titles", maxconn=MAXCONN, inter_s=2.0),
    Arrangement("titles, 0.25s", agent="titles", maxconn=MAXCONN),
    Arrangement("working now, 2s", agent="real", maxconn=MAXCONN, inter_s=2.0),
    Arrangement("working now, 0.5s", agent="real", maxconn=MAXCONN, inter_s=0.5),
    BUSYWEIGHT,
    Arrangement('count = "cpu"', agent="cores", maxconn=MAXCONN),
    Arrangement("titles without heartbeat", agent="instant", maxconn=MAXCONN),
    ORACLE,
)

# For each HAProxy: every balance algorithm.
BALANCES = (BUSYWEIGHT, BUSYWEIGHT_LEASTCONN, Arrangement("busyweight random", "real", "random", maxconn=MAXCONN))

# Candidates for better rules, judged in the scenarios in which the formula could be wrong. Spilling is a rule of its
# own, so all others go without it.
CANDIDATES = (
    Arrangement("without spill", agent="real"),
    Arrangement("without spill, leastconn", agent="real", balance="leastconn"),
    Arrangement("floor 10%", agent="floor10"),
    Arrangement("floor 25%", agent="floor25"),
    Arrangement("floor 10%, leastconn", agent="floor10", balance="leastconn"),
    Arrangement("floor 25%, leastconn", agent="floor25", balance="leastconn"),
    Arrangement("rise 5%/s", agent="rise5"),
    Arrangement("spill at 24", agent="real", spill_at=24),
    Arrangement("spill at 36", agent="real", spill_at=36),
    Arrangement("titles without heartbeat", agent="instant"),
    Arrangement("workers' CPU", agent="cpu"),
    Arrangement("workers' CPU and requests", agent="load"),
    Arrangement("curve: share", agent="share"),
    Arrangement("agent-inter 1s", agent="real", inter_s=1.0),
    Arrangement("agent-inter 5s", agent="real", inter_s=5.0),
    Arrangement("fresh_for 0.1s", agent="fresh01"),
    Arrangement("fresh_for 2s", agent="fresh2"),
)

Accident = tuple[float, str, int]  # at, "kill", "restart" or "stop and start", host


@dataclass(frozen=True)
class Scenario:
    """One course of events. Measurements cover windows: name -> from, to. `steps` are lines of main.c's script.
    `job_hosts` are the hosts whose jobs are measured."""

    name: str
    title: str
    end_s: float
    steps: tuple[str, ...]
    windows: dict[str, tuple[float, float]]
    arrangements: tuple[Arrangement, ...] = MAIN
    accidents: tuple[Accident, ...] = field(default=())
    job_hosts: range = JOB_HOSTS


def load(at: float, rate: float) -> str:
    """Requests per second from then on."""
    return f"at {at:g} load {rate:g}"


def full(at: float, hosts: range, mean_s: float = 30, *, jobs: int = MANY) -> Iterator[str]:
    """From then on every worker has a job, and gets the next one as soon as it is done."""
    return (f"at {at:g} backlog {host} {jobs} {mean_s:g}" for host in hosts)


def some(at: float, hosts: range, share: float, mean_s: float = 20) -> Iterator[str]:
    """Jobs come at random times and use that share of the cores."""
    return (f"at {at:g} jobs {host} {share * CORES / mean_s:g} {mean_s:g}" for host in hosts)


def gusts(
    begin: float, every: float, count: int, hosts: range, mean_s: float, *, workers: int = CORES
) -> Iterator[str]:
    """At regular intervals, one job for every worker, on all hosts at the same time."""
    for gust in range(count):
        yield from (f"at {begin + gust * every:g} backlog {host} {workers} {mean_s:g}" for host in hosts)


def short(at: float, hosts: range, share: float) -> Iterator[str]:
    """Jobs of 1 to 30 s, most of them short, use that share of the cores."""
    mean, least, most = 8.0, 1.0, 30.0
    low, high = math.exp(-least / mean), math.exp(-most / mean)
    drawn_mean = mean + (least * low - most * high) / (low - high)  # an exponential, truncated
    return (f"at {at:g} jobs {host} {share * CORES / drawn_mean:g} {mean:g} {least:g} {most:g}" for host in hosts)


def clear(at: float, hosts: range) -> Iterator[str]:
    """All jobs end at once."""
    return (f"at {at:g} clear {host}" for host in hosts)


def in_order(steps: Iterator[str] | list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """By their times."""
    return tuple(sorted(steps, key=lambda step: float(step.split()[1])))


def constant(rate: float, end_s: float) -> Scenario:
    """Idle job hosts and a constant load: measures capacity."""
    return Scenario(f"constant {rate:g}", "", end_s, (load(0, rate),), {"all": (20, end_s)}, ALL)


def _calm() -> Scenario:
    day = [load(t, NORMAL * (1 - 0.4 * math.cos(2 * math.pi * t / 100))) for t in range(0, 110, 5)]
    return Scenario("calm", "Calm day", 110, in_order([*day, *some(0, JOB_HOSTS, 0.2)]), {"day": (10, 110)}, MAIN)


def _mad(factor: int) -> Scenario:
    return Scenario(
        f"mad {factor}",
        f"One client mad: {factor} times the normal load",
        100,
        in_order([*some(0, JOB_HOSTS, 0.2), load(0, NORMAL), load(25, NORMAL * factor), load(95, NORMAL)]),
        {"spike": (25, 95)},
        ALL if factor == 6 else MAIN,
    )


def _night(name: str, title: str, spike: float, arrangements: tuple[Arrangement, ...]) -> Scenario:
    half = THREE_MAX / 2
    spikes = [load(45, half * spike), load(90, half)] if spike != 1 else []
    return Scenario(
        name,
        title,
        125,
        in_order([load(0, half), *spikes, *full(15, JOB_HOSTS), *clear(100, JOB_HOSTS)]),
        {"onset": (15, 30), "night": (45, 88 if spikes else 100), "after": (112, 125)},
        arrangements,
    )


def _jobs_on_web() -> Scenario:
    rates = [f"at 20 jobs {host} {0.6 * CORES / 20:g} 20" for host in WEB_HOSTS]
    return Scenario(
        "jobs on web",
        "Sidekiq puts jobs on the web hosts",
        120,
        in_order([load(0, 0.8 * THREE_MAX), *rates]),
        {"jobs": (50, 120)},
        ALL,
        job_hosts=WEB_HOSTS,
    )


def _onset() -> Scenario:
    """The night's first seconds again, for all rules that could follow sooner."""
    return Scenario(
        "onset",
        "Onset of the night batch: the first 15 s",
        30,
        in_order([load(0, THREE_MAX / 2), *full(15, JOB_HOSTS)]),
        {"onset": (15, 30)},
        NOW,
    )


def _gusts(mean_s: float, every: float, count: int) -> Scenario:
    return Scenario(
        f"gusts of {mean_s:g} s",
        f"Gusts: each {every:.0f} s, 24 jobs of {mean_s:g} s on every job host, half of what three hosts can take",
        10 + every * count,
        in_order([load(0, THREE_MAX / 2), *gusts(10, every, count, JOB_HOSTS, mean_s)]),
        {"gusts": (10, 10 + every * count)},
        NOW,
    )


def _short(name: str, title: str, hosts: range, web: float) -> Scenario:
    return Scenario(
        name,
        title,
        130,
        in_order([load(0, web), *short(0, hosts, 0.5)]),
        {"jobs": (30, 130)},
        NOW,
        job_hosts=hosts,
    )


def now_scenarios() -> list[Scenario]:
    """Scenarios with jobs that come and go between two heartbeats."""
    jobs, web = "Short jobs, 1 to 30 s, on half of the cores", "what three hosts can take"
    return [
        _onset(),
        # Not a multiple of agent-inter, so that gusts come at any moment between two polls.
        _gusts(4, 13.07, 8),
        _gusts(8, 23.11, 5),
        _short("short jobs", f"{jobs} of the job hosts; {web}", JOB_HOSTS, THREE_MAX),
        _short("short jobs everywhere", f"{jobs} of all hosts; 0.8 times {web}", range(7), 0.8 * THREE_MAX),
    ]


def _dead_at_0() -> Scenario:
    return Scenario(
        "agent dead at 0%",
        "A job host's agent dies at 0 %, later the jobs end and a spike comes",
        130,
        in_order([load(0, NORMAL), *full(0, JOB_HOSTS), *clear(40, JOB_HOSTS), load(60, 5.5 * NORMAL)]),
        {"spike": (60, 130)},
        AGENTS,
        ((30.0, "kill", 3),),
    )


def _dead_at_100() -> Scenario:
    return Scenario(
        "agent dead at 100%",
        "A job host's agent dies at 100 %, then the night batch comes",
        120,
        in_order([load(0, THREE_MAX / 2), *full(30, JOB_HOSTS)]),
        {"night": (50, 120)},
        AGENTS,
        ((20.0, "kill", 3),),
    )


def _all_full() -> Scenario:
    return Scenario(
        "all full",
        "All seven hosts full of jobs",
        110,
        in_order([load(0, THREE_MAX / 2), *full(10, WEB_HOSTS), *full(10, JOB_HOSTS)]),
        {"full": (40, 110)},
        (*MAIN, Arrangement("busyweight without second backend", agent="real", all_busy=False)),
        job_hosts=range(7),
    )


def restarts() -> list[Scenario]:
    """All agents, one after the other, by `systemctl restart`, and by `stop` and then `start`."""
    return [
        Scenario(
            "rolling restart",
            "All agents restarted one after the other, in the night batch",
            120,
            in_order([load(0, THREE_MAX / 2), *full(10, JOB_HOSTS)]),
            {"restarts": (35, 120)},
            arrangements,
            tuple((40.0 + 11 * host, how, host) for host in range(7)),
        )
        for how, arrangements in (("restart", (STATIC, BUSYWEIGHT)), ("stop and start", (BUSYWEIGHT_STOPPED,)))
    ]


def all_scenarios() -> list[Scenario]:
    """In the order of the page, without the restarts."""
    return [
        _calm(),
        *(_mad(factor) for factor in (2, 4, 6)),
        _night("night", "Night batch: the job hosts' cores all held, half of what three hosts can take", 1, ALL),
        _night("night spike", "Night batch with a web spike: 1.25 times what three hosts can take", 2.5, ALL),
        _jobs_on_web(),
        _dead_at_0(),
        _dead_at_100(),
        _all_full(),
    ]


# The short version.
SMALL = ("night", "gusts of 4 s")

# For comparing HAProxy versions.
COMPARED = ("night", "night spike", "mad 6", "gusts of 4 s")

# For judging candidates: where they win, and where they lose.
JUDGED = ("night", "night spike")
