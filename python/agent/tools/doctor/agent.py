"""WORLD. The running agent: does it answer, what is its reply based on, and do its ports answer? It changes nothing."""

import os
import socket
from collections.abc import Iterator
from typing import Any

from agent import _scan
from agent.config import values
from agent.config.advice import warnings
from agent.config.words import os_error, pool_prefix, quoted
from agent.operate.override import WAY_OUT
from agent.tools import client, console
from agent.tools.doctor.context import CheckContext
from agent.tools.doctor.finding import Finding, listed

POLL_TIMEOUT_S = 2.0
START = "start it: systemctl start busyweight"
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def configuration(context: CheckContext) -> Iterator[Finding]:
    """The configuration, and whether the agent uses it."""
    faults = list(warnings(context.config))
    for warning in faults:
        yield Finding("warn", "configuration", warning)
    if not faults:
        there = context.file.exists()
        yield Finding("ok", "configuration", f"{context.file}" if there else f"no {context.file}: using the defaults")
    if context.status is None:
        return
    used = context.status["config"]
    if os.path.realpath(used["file"]) != os.path.realpath(context.file):
        what = f"the agent uses {used['file']}, but doctor checks {context.file}"
        yield Finding("warn", "configuration", what, f"busyweight doctor --config {used['file']}")
    if used["reload"] and not used["reload"]["ok"]:
        what = (
            f"the last reload failed, and the previous configuration is in use: {listed(used['reload']['faults'], 2)}"
        )
        yield Finding("fail", "configuration", what, "fix the file and reload: systemctl reload busyweight")


def agent(context: CheckContext) -> Iterator[Finding]:
    """Whether an agent is running, what it replies, and which override is active."""
    status = context.status
    if status is None:
        yield Finding("warn", "agent", context.no_answer)
        if context.found and context.seen_by_us:
            said = context.found.said[0]
            yield Finding("ok", "answer", f"by doctor's own scan it would be {quoted(said.line.decode())}")
        return
    told = status["agent"]
    what = f"{told['version']}, pid {told['pid']}, {told['state']}, up {console.span(told['uptime_s'])}"
    if told["version"] != _scan.__version__:
        yield Finding("warn", "agent", f"{what}, but {_scan.__version__} is installed", "systemctl restart busyweight")
    else:
        yield Finding("ok", "agent", f"{what}, control socket {context.control}")
    for pool in status["pools"]:
        what = f"{pool_prefix(pool['pool'])}{quoted(pool['reply'])} for {console.span(pool['said_for_s'])}"
        if pool["known"]:
            yield Finding("ok", "answer", what)
        else:
            what += f"; the state of the host is unknown: {pool['reason']}"
            yield Finding("fail", "answer", what, "see the other findings; HAProxy keeps its current weight")
    yield from _orders(status)


def _orders(status: dict[str, Any]) -> Iterator[Finding]:
    if status["override"]:
        what = "active, replaces the measured weight: " + console.show_override(status["override"], status["now"])
        yield Finding("warn", "orders", what, "to end it: busyweight ready")
    file = status["state_file"]
    if file["write_error"]:
        what = f"{file['write_error']}: overrides are in memory only and will not survive a restart"
        remedy = "make sure that the disk has space and the agent may write there (StateDirectory=, --state)"
        yield Finding("warn", "orders", what, remedy)
    in_doubt = status.get("ready_in_doubt", False)
    if file["load_warning"] or in_doubt:
        what = file["load_warning"] or "an override from before the agent's start may be lost"
        yield Finding("warn", "orders", what, WAY_OUT if in_doubt else "")
    if not any((status["override"], file["write_error"], file["load_warning"], in_doubt)):
        yield Finding("ok", "orders", "no override")


def discovery(context: CheckContext) -> Iterator[Finding]:
    """How processes are found, and why not in a better way."""
    wanted = context.config.scan.discovery
    if context.status:
        sample, scanner = context.status["sample"], context.status["scanner"]
        chosen, refused = sample["discovery"] if sample else "unknown yet", scanner["refused"]
        if scanner["fallback"]:
            what = f"{chosen}, as a fallback: {scanner['fallback']}"
            yield Finding("warn", "discovery", what, "restart the agent to try it again")
            return
    elif context.found:
        chosen, refused = context.found.snapshot.discovery, context.found.refused
        chosen += ", for the user running doctor"
    else:
        return
    if chosen == "sweep" and wanted == "auto" and not any(why.startswith("cgroup") for why in refused):
        refused = [*refused, "cgroup: not every pool sets its cgroups"]
    why = "; not " + "; not ".join(refused) if refused else ""
    remedy = "to permit eBPF, install the drop-in systemd/ebpf.conf" if "CAP_" in why else ""
    named = any(reason.startswith(f"{wanted}:") for reason in refused)
    yield Finding("warn" if named else "ok", "discovery", chosen + why, remedy)


def readers(context: CheckContext) -> Iterator[Finding]:
    """Whether titles can be read without hanging, and scans finish."""
    if context.status is None:
        hung = [w.pid for w in context.found.workers if w.quarantined] if context.found else []
        behind, failure = len(hung), None
    else:
        hung = [worker["pid"] for worker in context.workers if worker["quarantined"]]
        behind, failure = context.status["scanner"]["hung_readers"], context.status["scanner"]["failure"]
    if failure:
        yield Finding("fail", "readers", f"the last scan failed: {failure}", "see the agent's log")
    if hung or behind:
        what = f"{behind} hung, {len(hung)} processes in quarantine"
        what += f": pids {listed(hung)}; their last reading is used" if hung else ""
        yield Finding(
            "warn", "readers", what, "something holds their memory lock: see /proc/PID/stack and /proc/PID/wchan"
        )
    elif not failure:
        sample = context.status and context.status["sample"]
        age = f", newest sample {console.span(sample['age_s'])} old" if sample else ""
        yield Finding("ok", "readers", f"none hung, nothing in quarantine{age}")


def port(context: CheckContext) -> Iterator[Finding]:
    """Polls every listen address, as HAProxy does, and compares the reply with ``status``."""
    told = context.status["polls"]["listening"] if context.status else []
    addresses = [values.address(text) for text in told] or list(context.config.listen)
    for address in addresses:
        shown = values.show_address(address)
        said = {_line(context)}
        try:
            line = _poll(address)
        except OSError as error:
            yield _unanswered(context, shown, error)
            continue
        said.add(_line(context))
        if not line:
            yield Finding("warn", "port", f"{shown} closes without a reply", "is this host's own address in allow?")
        elif context.status is None:
            what = (
                f"{shown} answers {quoted(line)}, but without the agent's status it is unknown whether it is busyweight"
            )
            yield Finding("warn", "port", what, "run doctor as root and with the agent's --control")
        elif line in said:
            yield Finding("ok", "port", f"{shown} answers {quoted(line)}, which matches status")
        else:
            what = f"{shown} answers {quoted(line)}, but status shows {quoted(str(said.pop()))}"
            yield Finding("fail", "port", what, f"another agent uses the port: ss -ltnp sport = :{address[1]}")
    if context.status and told and not any(told_by_config(context, text) for text in told):
        what = f"the agent listens on {listed(told)}, but the configuration has {_listen(context)}"
        yield Finding("warn", "port", what, "a systemd socket overrides listen; set ListenStream= there")


def told_by_config(context: CheckContext, address: str) -> bool:
    """Whether the configuration names this address, or leaves the port to the kernel."""
    return any(values.show_address(one) == address or one[1] == 0 for one in context.config.listen)


def _listen(context: CheckContext) -> str:
    return listed([values.show_address(address) for address in context.config.listen])


def reached(address: tuple[str, int]) -> tuple[str, int]:
    """The address at which this host reaches that listener; also the address from which it polls then."""
    host, number = address
    return ANY_ADDRESS.get(host, host), number


def _poll(address: tuple[str, int]) -> str:
    """One poll. It sends an empty line first, because an agent with pools waits for a line."""
    with socket.create_connection(reached(address), timeout=POLL_TIMEOUT_S) as connection:
        connection.sendall(b"\n")
        with connection.makefile("rb") as answer:
            return answer.readline(4096).decode(errors="replace")


def _unanswered(context: CheckContext, shown: str, error: OSError) -> Finding:
    if isinstance(error, ConnectionRefusedError):
        return Finding("fail", "port", f"nothing listens on {shown}", START)
    if isinstance(error, ConnectionResetError):
        return Finding("warn", "port", f"{shown} refuses this host", "is its own address in allow?")
    if isinstance(error, TimeoutError):
        what = f"{shown} does not answer within {POLL_TIMEOUT_S:g} s"
        return Finding(
            "fail", "port", what, "the agent is stopped or hung, or a firewall drops packets: see the agent's log"
        )
    return Finding("fail", "port", f"{shown} cannot be reached: {os_error(error)}", START)


def _line(context: CheckContext) -> str | None:
    """The agent's current reply; None if it cannot be asked."""
    if context.status is None:
        return None
    try:
        reply: str | None = client.ask(context.control, "status")["status"]["reply"]
    except client.ClientError:
        return None
    return reply
