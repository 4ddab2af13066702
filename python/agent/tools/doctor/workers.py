"""WORLD. The workers themselves: those found, those hidden by the comm filter, and whether their titles are current."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from agent._scan import Worker
from agent.config.schema import Pool
from agent.config.words import pool_prefix
from agent.sampling import host
from agent.tools import console
from agent.tools.check import show_title
from agent.tools.doctor.context import CheckContext
from agent.tools.doctor.finding import Finding, listed

# Sidekiq rewrites its title every 10 s (every 5 s before 7.0), Faktory's Ruby worker every 15 s.
# Programs without a heartbeat write theirs only when something changes.
SILENT_S = 30.0

# Three of the longest heartbeats: a working worker whose title says idle for so long has a stuck title.
STUCK_MS = 45_000

_LAST_RAN_MS = re.compile(r"^se\.exec_start\s*:\s*([\d.]+)", re.MULTILINE)


def workers(context: CheckContext) -> Iterator[Finding]:
    """Which workers were found, and how."""
    if context.found is None or not context.seen_by_us:
        if context.seen_by_agent and context.status:
            for i, pool in enumerate(context.status["pools"]):
                what = f"{pool_prefix(pool['pool'])}not visible to this user{_by_agent(context, i)}"
                yield Finding("ok", "workers", what)
        return
    by = context.found.snapshot.discovery
    for i, pool in enumerate(context.config.all_pools):
        counts, title = context.found.snapshot.pools[i], pool_prefix(pool.name)
        if counts.workers or counts.unparsable:
            what = f"{counts.workers} of {pool.workers.preset}, {counts.busy_processes} with a job, "
            what += (
                f"{counts.busy_threads} of {counts.total_threads} threads busy; found by {by}{_by_agent(context, i)}"
            )
            yield Finding("ok", "workers", title + what)
        else:
            yield Finding(
                "warn",
                "workers",
                f"{title}none of {pool.workers.preset} found by {by}{_by_agent(context, i)}",
                _where_else(pool),
            )
        if counts.unparsable:
            pids = [w.pid for w in context.found.workers if w.readings[i] == "unparsable"]
            yield Finding(
                "warn",
                "workers",
                f"{title}{counts.unparsable} titles have no valid count: pids {listed(pids)}",
                "see `busyweight check --workers`; a truncated title needs a shorter tag",
            )
    if context.found.snapshot.cpu_untold:
        yield Finding(
            "warn",
            "workers",
            f"the CPU time of {context.found.snapshot.cpu_untold} workers cannot be read, so only their titles count",
            "a seccomp filter or sandbox denies it; jobs then show at the next heartbeat, up to 15 s late",
        )
    if context.found.snapshot.unreadable:
        yield Finding(
            "warn",
            "workers",
            f"{context.found.snapshot.unreadable} processes that may be workers cannot be read by this user",
            "run doctor as root to see whether they are workers, and make sure that the agent may read them",
        )


def _by_agent(context: CheckContext, pool: int) -> str:
    """The same from the agent's newest sample."""
    sample = context.status and context.status["sample"]
    if not context.status or not sample or pool >= len(context.status["pools"]):
        return ""
    counts = context.status["pools"][pool]["counts"]
    age = console.span(sample["age_s"])
    return f"; the agent counted {counts['workers']} by {sample['discovery']}, {age} ago" if counts else ""


def _where_else(pool: Pool) -> str:
    narrow = [key for key in ("users", "cgroups") if getattr(pool.workers, key)]
    also = f", {' and '.join(narrow)}" if narrow else ""
    silent = "Sidekiq on JRuby, or in Puma without contrib/active_job_live_title.rb, shows no title"
    return f"if workers should run here, check preset{also}. {silent}"


def comm_filter(context: CheckContext) -> Iterator[Finding]:
    """Whether the name filter excludes a process with a worker's title."""
    if context.found is None or context.wide is None or not context.seen_by_us:
        return
    counted = {worker.pid: worker for worker in context.found.workers}
    hidden = False
    for i, pool in enumerate(context.config.all_pools):
        globs = host.selector(pool.workers).comm
        names: dict[str, list[Worker]] = {}
        for worker in context.wide.workers:
            if _passed_over(worker, counted.get(worker.pid), i) and (comm := _comm(context, worker.pid)):
                names.setdefault(comm, []).append(worker)
        for comm, passed in names.items():
            hidden = True
            pids = listed([worker.pid for worker in passed])
            table = f"pools.{pool.name}" if pool.name else "workers"
            comms = json.dumps([*globs, _glob(comm)])
            yield Finding(
                "fail",
                "comm filter",
                f"{pool_prefix(pool.name)}hides workers called {show_title(comm.encode())} (pid {pids}): "
                f'"{show_title(passed[0].title)[:60]}"',
                f"set {table}.comm = {comms}",
            )
    if not hidden:
        yield Finding(
            "ok", "comm filter", f"hides no worker: read {len(context.wide.workers)} titles whatever the name"
        )


def _passed_over(wide: Worker, narrow: Worker | None, pool: int) -> bool:
    # The wide scan came first, so a worker missing in the other one already existed.
    return wide.readings[pool] is not None and not wide.copy and (narrow is None or narrow.readings[pool] is None)


def _comm(context: CheckContext, pid: int) -> str:
    """A process's name, empty if it is gone."""
    try:
        return Path(context.config.scan.procfs, str(pid), "comm").read_text(errors="replace").removesuffix("\n")
    except OSError:
        return ""


def _glob(comm: str) -> str:
    """A glob for exactly this name; special characters become ?."""
    return "".join(c if c.isascii() and c.isprintable() and c not in '*?[]"\\' else "?" for c in comm)


def titles(context: CheckContext) -> Iterator[Finding]:
    """How old the titles may be.

    The kernel does not tell when a title was written, and an unchanged title looks the same whether it was written
    again or not. But a process that has not run cannot have written: so the time since any of its threads last ran is
    the minimum age of its title.
    """
    if context.found is None or not context.seen_by_us:
        return
    beating = [i for i, pool in enumerate(context.config.all_pools) if host.selector(pool.workers).has_a_heartbeat]
    ours = [w for w in context.found.workers if not w.copy and any(isinstance(w.readings[i], tuple) for i in beating)]
    now_s = _last_ran(Path("/proc/self"))
    procfs = Path(context.config.scan.procfs)
    rested = {w.pid: now_s - ran for w in ours if now_s and (ran := _last_ran(procfs / str(w.pid)))}
    if not ours:
        return
    if not rested:
        yield Finding("ok", "titles", "age unknown: this kernel does not tell when a process last ran")
        return
    silent = sorted((age_s, pid) for pid, age_s in rested.items() if age_s > SILENT_S)
    if silent:
        yield Finding(
            "warn",
            "titles",
            f"{len(silent)} workers have not run for up to {console.span(silent[-1][0])}, so their titles are at least "
            f"as old and may be out of date: pids {listed([pid for _, pid in reversed(silent)])}",
            "check whether they are stopped or hung (ps -o stat,wchan -p PID), and restart them",
        )
    else:
        what = (
            f"all {len(rested)} workers ran within {console.span(max(rested.values()))}; a heartbeat writes the title "
        )
        yield Finding("ok", "titles", what + "every 5 to 15 s, and the kernel does not tell when")


def stuck_titles(context: CheckContext) -> Iterator[Finding]:
    """Workers that are working, by their CPU time, although their titles have said idle for several heartbeats."""
    stuck = [
        worker["pid"]
        for worker in context.workers
        if worker["works_for_ms"] > STUCK_MS
        and not worker["copy"]
        and all(reading[0] == 0 for reading in worker["readings"].values() if isinstance(reading, list))
    ]
    if stuck:
        yield Finding(
            "warn",
            "titles",
            f"{len(stuck)} workers have used CPU for more than {STUCK_MS // 1000} s while their titles say idle: "
            f"pids {listed(stuck)}",
            "they count as busy; check what they do (a job outside Sidekiq's threads, a hung heartbeat), "
            'or set workers.now = "titles"',
        )


def _last_ran(process: Path) -> float | None:
    """When any thread of a process last ran, in seconds of the scheduler's clock; None if the kernel does not tell
    (proc(5), /proc/PID/sched)."""
    newest_ms = None
    for sched in process.glob("task/*/sched"):
        try:
            match = _LAST_RAN_MS.search(sched.read_text(errors="replace"))
        except OSError:
            continue  # a thread that is gone
        if match:
            newest_ms = max(newest_ms or 0.0, float(match[1]))
    return None if newest_ms is None else newest_ms / 1000
