"""The operator's commands: asks the running agent, and formats its answer for people."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.config.words import quoted
from agent.operate.override import WAY_OUT
from agent.tools import client


def order(path: Path, kind: str, *, weight: str | None, lasts: str | None, reason: str | None) -> tuple[str, list[str]]:
    """Sends a command. Returns the result as text, and warnings. Raises ClientError."""
    words = {"weight": weight, "for": lasts, "reason": reason, "sudo_user": client.sudo_user()}
    done = client.ask(path, kind, **words)
    write_error = done["state_file"]["write_error"]
    warnings = []
    if write_error:
        warnings.append(f"{write_error}: the override is in memory only and will not survive a restart")
    lines = []
    if done["ended"]:
        lines.append(f"ended: {done['ended']}")
    if done["override"]:
        lines.append("active: " + show_override(done["override"], now_s=time.time()))
    elif not done["ended"] and not done["ready_owed"]:
        lines.append("no override was active; nothing changes")
        lines.append("if HAProxy still shows a drain or maint: busyweight drain, then busyweight ready")
    if done["ready_owed"]:
        left_s = done["ready_left_s"]
        lines.append("sending ready to every poll" + ("" if left_s is None else f" for {span(left_s)}"))
    if done["reply"] is not None:
        lines.append(f"replying {quoted(done['reply'])}")
    return "\n".join(lines), warnings


def as_json(status: dict[str, Any]) -> str:
    """All of it, as one JSON object."""
    return json.dumps(status, indent=2)


def status(path: Path) -> dict[str, Any]:
    """The agent's status. Raises ClientError."""
    told: dict[str, Any] = client.ask(path, "status")["status"]
    return told


def show(status: dict[str, Any], now_s: float) -> str:
    """A status for people: first the reply and why, then what it is based on."""
    return "".join(f"{title:<10} {line}\n" for title, line in _lines(status, now_s))


def _lines(status: dict[str, Any], now_s: float) -> Iterator[tuple[str, str]]:
    agent = status["agent"]
    for pool in status["pools"]:
        title = f"pool {pool['pool']}" if pool["pool"] else "reply"
        yield title, f"{quoted(pool['reply'])} for {span(pool['said_for_s'])}" + _why(pool)
    if not status["pools"]:
        yield "reply", "none yet: the first scan has not finished"
    override = status["override"]
    yield "override", show_override(override, now_s) if override else "none"
    if status["ready_owed"]:
        left_s = status["ready_left_s"]
        when = "as soon as polls are answered" if left_s is None else f"for another {span(left_s)}"
        yield "", f"sending ready to every poll {when}, because a drain or maint has ended"
    state = status["state_file"]
    if state["write_error"]:
        yield "WARNING", f"{state['write_error']}: overrides are in memory only and will not survive a restart"
    if state["load_warning"]:
        yield "WARNING", state["load_warning"]
    if status.get("ready_in_doubt"):
        yield "", WAY_OUT
    yield from _evidence(status)
    yield from _polls(status["polls"], status["pools"])
    if trouble := status.get("metrics", {}).get("trouble"):
        yield "WARNING", trouble
    yield "config", _config(status["config"], now_s)
    for fault in (status["config"]["reload"] or {}).get("faults", []):
        yield "", fault
    yield "agent", f"{agent['version']}, pid {agent['pid']}, {agent['state']}, up {span(agent['uptime_s'])}"


def _evidence(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    sample, scanner = status["sample"], status["scanner"]
    if sample is None:
        yield "sample", "none recent enough to be used" if scanner["scans"] else "none yet"
    else:
        hidden = "" if sample["visible"] else "; processes cannot be seen"
        yield "sample", f"{span(sample['age_s'])} old, took {sample['took_ms']:.1f} ms{hidden}"
    if scanner["failure"]:
        yield "WARNING", f"the last scan failed: {scanner['failure']}"
    for pool in status["pools"]:
        if pool["counts"]:
            title = f"workers of pool {pool['pool']}" if pool["pool"] else "workers"
            yield title, show_counts(pool["counts"])
        if pool["hidden"]:
            yield (
                "WARNING",
                f"{pool['hidden']} workers do not count: workers.comm does not match their names; see doctor",
            )
    found = "" if sample is None else f"{sample['discovery']}, knows {sample['processes']} processes"
    if sample is not None and sample["unreadable"]:
        found += f", {sample['unreadable']} unreadable"
    yield "discovery", found or "unknown yet"
    for refused in scanner["refused"]:
        yield "", f"not available: {refused}"
    if scanner["fallback"]:
        yield "WARNING", f"fell back: {scanner['fallback']}"
    if scanner["hung_readers"]:
        yield "WARNING", f"{scanner['hung_readers']} readers hang in processes that block them"


def show_counts(counts: dict[str, int]) -> str:
    parts = [
        f"{counts['workers']}: {counts['busy_processes']} busy, "
        f"{counts['busy_threads']} of {counts['total_threads']} threads"
    ]
    for name, what in (
        ("untitled", "busy by their CPU time, not by their titles"),
        ("stopping", "stopping"),
        ("copies", "forked copies not counted"),
        ("unparsable", "titles without a count"),
        ("quarantined", "quarantined"),
        ("unread", "cannot be read"),
    ):
        if counts[name]:
            parts.append(f"{counts[name]} {what}")
    for name, what in (("cores_milli", "used by workers"), ("others_milli", "used by others")):
        if counts[name]:
            parts.append(f"{counts[name] / 1000:.1f} cores {what}")
    return ", ".join(parts)


def _polls(polls: dict[str, Any], pools: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    yield "listening", ", ".join(polls["listening"]) or "not yet"
    troubles = [
        f"{polls[name]} {what}"
        for name, what in (
            ("refused", "refused (not in allow)"),
            ("disconnected", "disconnected before the reply"),
            ("timed_out", "answered without their agent-send line after the deadline"),
            ("evicted", "answered without it at the connection limit"),
            ("no_fds", "times without a free file descriptor"),
        )
        if polls[name]
    ]
    yield "polls", ", ".join([f"{polls['answered']} answered", *troubles])
    for poller in polls["pollers"][:8]:
        refused = "" if poller["allowed"] else ", refused"
        yield "", f"{poller['address']}: {poller['polls']}, last {span(poller['last_s'])} ago{refused}"
    if len(polls["pollers"]) > 8:
        yield "", f"and {len(polls['pollers']) - 8} more addresses"


def _config(config: dict[str, Any], now_s: float) -> str:
    reload = config["reload"]
    if reload is None:
        return f"{config['file']}, not reloaded since the start"
    when = f"{_at(reload['at'])} ({span(now_s - reload['at'])} ago)"
    if reload["ok"]:
        return f"{config['file']}, reloaded {when}"
    return f"{config['file']}: RELOAD FAILED {when}; the previous configuration is in use"


def show_override(override: dict[str, Any], now_s: float) -> str:
    what = override["kind"] + ("" if override["weight"] is None else f" {override['weight']}%")
    since = f"since {_at(override['since'])} ({span(now_s - override['since'])})"
    until = "until busyweight ready"
    if override["until"] is not None:
        until = f"until {_at(override['until'])} (another {span(override['left_s'])})"
    why = f": {override['why']}" if override["why"] else ", no reason given"
    return f"{what} by {override['who']}, {since}, {until}{why}"


def _why(pool: dict[str, Any]) -> str:
    """What the reply itself does not show."""
    if "#" in pool["reply"]:
        return "" if pool["known"] else "; unknown"
    return f"; {pool['reason']}"


def _at(wall_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(wall_s))


def span(seconds: float) -> str:
    """``0.3s``, ``42s``, ``5m 3s``, ``2h 10m``, ``3d 4h``: two units at most."""
    seconds = max(0.0, seconds)
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for big, size, small, part in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size}{big}" + (f" {rest}{small}" if rest else "")
    return f"{whole}s"
