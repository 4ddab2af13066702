"""How soon HAProxy's weight follows a job, with real parts only: `python -m benches.now [--small]`.

Measures with real Sidekiqs of each available version, the real agent and real HAProxys: from the moment at which a job
reports its start until HAProxy's weight has changed, and back when it ends. Writes benches/results/now.json and now.svg
(--small: now-small.json, this machine's own Sidekiq alone, in about a minute). It must leave the machine as it was.
"""

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.matrix import trees
from tests.real.parts import sidekiqs_here

from benches.harness import Spread, Target, machine, write_result
from benches.now import judge
from benches.now.plot import plot_now
from benches.now.rig import AGENT_INTER_S, FRESH_FOR_S, Kind, Rig, Version

JOBS, FEW_JOBS = 20, 3
WITHIN_S = AGENT_INTER_S + FRESH_FOR_S + 0.3
KINDS = {
    "burns": Kind("burns", live=False),
    "burns, live titles": Kind("burns", live=True),
    "waits, live titles": Kind("waits", live=True),
}

Results = dict[str, Any]


def alone() -> None:
    """Continues in a new pid namespace, if permitted: the agent counts every Sidekiq that it sees."""
    if os.geteuid() == 0 and os.getpid() != 1 and os.environ.get("BENCH_ALONE") is None:
        os.environ["BENCH_ALONE"] = "1"
        again = [sys.executable, "-m", "benches.now", *sys.argv[1:]]
        own = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
        os.execvp(own[0], [*own, *again])  # noqa: S606 - itself
    if others := sidekiqs_here():
        sys.exit(f"the bench counts every Sidekiq of the machine; stop those that run here first: {others}")


def ahead() -> bool:
    """Gives the bench and its children priority, if permitted, so that a job that uses CPU has a core."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        return False
    return True


def versions(*, small: bool) -> list[Version]:
    """The available real parts, each once."""
    if not small:
        try:
            found, reasons = trees.get_all()
            for release, reason in reasons.items():
                print(f"not measured: {release}: {reason}", file=sys.stderr)
            return [Version(tree.versions()["sidekiq"], tree, tree.haproxies()[-1]) for tree in found]
        except trees.TreeError as reason:
            print(f"this machine's own Sidekiq alone: {reason}", file=sys.stderr)
    return [Version("here")]


def measure(version: Version, jobs: int, dice: random.Random) -> Results:
    """All kinds of jobs with one version."""
    measured: Results = {"haproxy": version.haproxy.version if version.haproxy else "here", "kinds": {}}
    with tempfile.TemporaryDirectory() as directory, Rig(version, Path(directory)) as rig:
        for live in (False, True):
            with rig.workers(live=live) as worker:
                for name, kind in KINDS.items():
                    if kind.live == live:
                        print(f"Sidekiq {version.sidekiq}: {name}", file=sys.stderr, flush=True)
                        measured["kinds"][name] = judged(*rig.turn(worker, kind, jobs, dice))
    return measured


def judged(jobs: list[judge.Job], seen: list[judge.Seen]) -> Results:
    """The results of one kind of jobs, in milliseconds; null for a change that never came."""
    delays = [judge.delay(job, seen) for job in jobs]
    starts, ends = ([None if s is None else round(1000 * s, 1) for s in side] for side in _sides(delays))
    return {
        "jobs": len(jobs),
        "start_ms": starts,
        "end_ms": ends,
        "start": Spread.of([ms for ms in starts if ms is not None] or [0.0]),
        "end": Spread.of([ms for ms in ends if ms is not None] or [0.0]),
        "idle_counted": len(judge.idle_counted(jobs, seen)),
        "gaps": judge.gaps(jobs, seen),
    }


def _sides(delays: list[judge.Delay]) -> tuple[list[float | None], list[float | None]]:
    return [each.start_s for each in delays], [each.end_s for each in delays]


def within(delays_ms: list[float | None]) -> int:
    """How many came in time."""
    return sum(ms is not None and ms <= 1000 * WITHIN_S for ms in delays_ms)


def targets(sidekiqs: Results) -> list[Target]:
    """The targets: starts are followed at once, ends too if titles are live, and no idle worker counts."""
    judged_targets = []
    for version, measured in sidekiqs.items():
        for name, found in measured["kinds"].items():
            for side in ("start", "end") if KINDS[name].live else ("start",):
                what = f"Sidekiq {version}, a job {name}: {side}s followed within {1000 * WITHIN_S:.0f} ms"
                judged_targets.append(Target(what, within(found[f"{side}_ms"]), at_least=found["jobs"]))
    kinds = [found for measured in sidekiqs.values() for found in measured["kinds"].values()]
    counted = sum(found["idle_counted"] for found in kinds)
    return [*judged_targets, Target("idle workers counted as busy", counted, at_most=0)]


def table(sidekiqs: Results) -> str:
    """For the terminal: median and slowest, in milliseconds."""
    lines = []
    for version, measured in sidekiqs.items():
        for name, found in measured["kinds"].items():
            sides = "   ".join(f"{s} {found[s].median:6.0f} (max {found[s].high:6.0f})" for s in ("start", "end"))
            missed = sum(ms is None for ms in [*found["start_ms"], *found["end_ms"]])
            lines.append(f"{version:>6} {name:20} {sides}   missed {missed}, gaps {found['gaps']}   (ms)")
    return "\n".join(lines)


def main() -> int:
    """0 if everything was measured, whether or not the targets are met; 1 if the bench could not run."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--small", action="store_true", help="only this machine's own Sidekiq, and few jobs")
    options.add_argument("--seed", type=int, default=1, help="seed for the times at which jobs begin")
    arguments = options.parse_args()
    alone()
    described = (
        machine() | {"realtime": ahead()} | {"agent_inter_ms": 1000 * AGENT_INTER_S, "fresh_for_ms": 1000 * FRESH_FOR_S}
    )
    dice = random.Random(arguments.seed)
    jobs = FEW_JOBS if arguments.small else JOBS
    try:
        sidekiqs = {each.sidekiq: measure(each, jobs, dice) for each in versions(small=arguments.small)}
    except (pytest.fail.Exception, pytest.skip.Exception, RuntimeError) as reason:
        print(f"the bench of weights that follow jobs cannot run here: {reason}", file=sys.stderr)
        return 1
    found = targets(sidekiqs)
    print(table(sidekiqs))
    for target in found:
        print(target.line())
    results = {"machine": described, "within_ms": 1000 * WITHIN_S, "sidekiqs": sidekiqs}
    print(write_result("now-small" if arguments.small else "now", results, found))
    if not arguments.small:
        print(plot_now(sidekiqs, 1000 * WITHIN_S))
    return 0


if __name__ == "__main__":
    sys.exit(main())
