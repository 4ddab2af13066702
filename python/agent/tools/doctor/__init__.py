"""What works, what does not, and what to do: checks of the host, the agent, and HAProxy.

It reads whatever its user may read, and changes nothing. The agent itself never imports it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from agent import _scan
from agent.config.schema import Config, Workers
from agent.config.words import printable
from agent.sampling import capacity, host
from agent.tools import check, client
from agent.tools.doctor import agent, metrics, polls, systemd_unit, visibility, workers
from agent.tools.doctor.context import CheckContext
from agent.tools.doctor.finding import Finding
from agent.tools.doctor.haproxy_stats import HaproxyStats

Check = Callable[[CheckContext], Iterator[Finding]]


def examine(config: Config, file: Path, control: Path, haproxy_socket: Path | None) -> Iterator[Finding]:
    """All findings, one by one as they are made."""
    context = _gather(config, file, control, haproxy_socket)
    before: tuple[Check, ...] = (
        agent.configuration,
        visibility.processes,
        workers.workers,
        workers.comm_filter,
        workers.titles,
        workers.stuck_titles,
        visibility.capacity,
        agent.discovery,
        agent.agent,
        agent.readers,
        # Before doctor polls the port and so makes this host a poller.
        polls.allow,
        agent.port,
        metrics.metrics,
        systemd_unit.unit,
    )
    for examined in before:
        try:
            yield from examined(context)
        except (OSError, KeyError) as error:
            yield _broke(examined, context, error)
    lines = None
    if haproxy_socket is not None:
        stats = HaproxyStats(context, haproxy_socket)
        lines = stats.lines
        yield from stats.findings
    yield from polls.agent_inter(context, lines)


def _gather(config: Config, file: Path, control: Path, haproxy_socket: Path | None) -> CheckContext:
    """Collects what several checks need. If something is not available, that is part of the findings."""
    status, no_answer, known = None, "", []
    try:
        status = client.ask(control, "status")["status"]
        known = client.ask(control, "workers", most=1000)["workers"]
    except client.ClientError as error:
        no_answer = str(error)
    found, wide, scan_error = None, None, ""
    cores = capacity.cores()
    try:
        # Opened first, because opening a scanner drops privileges. A running agent reports how it finds processes, so
        # no BPF programs need to be loaded then.
        scanner = host.open_scanner(config if status is None else _by_sweep(config), detail=True)
        # Scanned first: a worker missing in the other scan already existed.
        wide = check.check(_every_name(config), cores=cores[0])
        found = check.check(config, scanner, cores[0])
    except (OSError, RuntimeError) as error:
        found, scan_error = None, str(error)
    return CheckContext(config, file, control, haproxy_socket, status, no_answer, known, cores, found, wide, scan_error)


def _broke(examined: Check, context: CheckContext, error: Exception) -> Finding:
    """A check that failed. An agent of another version may have a different status."""
    name = examined.__name__.replace("_", " ")
    if not isinstance(error, KeyError) or context.status is None:
        return Finding("warn", name, f"cannot be checked: {error}")
    version = context.status.get("agent", {}).get("version", "unknown")
    if version == _scan.__version__:
        what = f"cannot be checked: the agent's status lacks {error}, though agent and doctor are both {version}"
        return Finding("warn", name, what, "report this as a bug in busyweight")
    what = f"the status of the agent, version {version}, lacks {error}; doctor is version {_scan.__version__}"
    return Finding("warn", name, what, "restart the agent to run the installed version")


def _by_sweep(config: Config) -> Config:
    return replace(config, scan=replace(config.scan, discovery="sweep"))


def _every_name(config: Config) -> Config:
    def widened(workers: Workers) -> Workers:
        return replace(workers, comm=("*",))

    pools = tuple(replace(pool, workers=widened(pool.workers)) for pool in config.pools)
    return replace(_by_sweep(config), workers=widened(config.workers), pools=pools)


def print_lines(findings: Iterable[Finding]) -> bool:
    """Prints each finding as it comes. Returns whether none is a fail."""
    well = True
    for finding in findings:
        print(printable(str(finding)), flush=True)  # text from HAProxy and workers may contain anything
        well &= finding.state != "fail"
    return well


def print_json(findings: Iterable[Finding]) -> bool:
    """Prints all findings as one JSON object. Returns whether none is a fail."""
    made = list(findings)
    well = all(finding.state != "fail" for finding in made)
    checks = [{"check": f.check, "state": f.state, "what": f.what, "remedy": f.remedy} for f in made]
    print(json.dumps({"version": _scan.__version__, "ok": well, "checks": checks}, indent=2))
    return well
