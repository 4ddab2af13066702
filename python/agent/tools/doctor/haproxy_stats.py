"""WORLD. HAProxy's side, on its stats socket: do its weights match the agent's replies? It only reads."""

import csv
import io
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config import values
from agent.config.words import os_error, quoted
from agent.tools import client
from agent.tools.doctor.context import CheckContext
from agent.tools.doctor.finding import Finding, listed

TIMEOUT_S = 5.0
# HAProxy sees a change at its next agent-check, 2 s later by default.
AGREE_WITHIN_S = 5.0
LOOK_S = 0.2
# srv_agent_state (HAProxy's include/haproxy/check-t.h)
CONFIGURED, ENABLED = 0x02, 0x04
FULL_WEIGHT, WEIGHT_MAX = 100, 256


@dataclass(frozen=True, slots=True)
class ServerLine:
    """A server line that polls this agent, as HAProxy sees it now."""

    name: str
    enabled: bool
    initial: int  # the weight of its line
    user: int  # after the agent's percentage
    effective: int  # what counts in balancing
    status: str
    throttled: bool
    agent_status: str
    agent_words: str

    @property
    def usable(self) -> bool:
        """Whether only the agent determines its effective weight."""
        return self.status.startswith(("UP", "no check")) and not self.throttled

    def has(self, percent: int) -> bool:
        """Whether its weight is this percentage of its line's; HAProxy rounds down."""
        wanted = min(self.initial * percent // 100, WEIGHT_MAX)
        return self.user == wanted and (self.effective == wanted or not self.usable)


def servers(path: Path, ports: set[int]) -> list[ServerLine]:
    """The server lines whose agent is this host, at one of these ports. Raises OSError."""
    here = _own_addresses()
    stat = {(row["# pxname"], row["svname"]): row for row in csv.DictReader(io.StringIO(_ask(path, "show stat")))}
    lines = _ask(path, "show servers state").splitlines()[1:]
    header = lines[0].lstrip("# ").split() if lines else []
    found = []
    for line in lines[1:]:
        state = dict(zip(header, line.split(), strict=False))
        agent_state = int(state.get("srv_agent_state", 0))
        address = state.get("srv_agent_addr", "-")
        address = state.get("srv_addr", "-") if address == "-" else address
        row = stat.get((state.get("be_name", ""), state.get("srv_name", "")))
        if row and agent_state & CONFIGURED and int(state["srv_agent_port"]) in ports and address in here:
            found.append(_server(row, state, bool(agent_state & ENABLED)))
    return found


def _server(row: dict[str, str], state: dict[str, str], enabled: bool) -> ServerLine:
    return ServerLine(
        name=f"{row['# pxname']}/{row['svname']}",
        enabled=enabled,
        initial=int(state["srv_iweight"]),
        user=int(state["srv_uweight"]),
        effective=int(row["weight"] or 0),
        status=row["status"],
        throttled=row.get("throttle", "") not in ("", "100"),
        agent_status=row.get("agent_status", "").removeprefix("* "),
        agent_words=row.get("last_agt", "") or row.get("agent_desc", ""),
    )


def _ask(path: Path, command: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(command.encode() + b"\n")
        with connection.makefile("rb") as answer:
            text = answer.read().decode(errors="replace")
    if not text.startswith(("# pxname,", "1\n#")):
        raise OSError(f"answers {command!r} with {text[:60]!r}")
    return text


def _own_addresses() -> set[str]:
    import psutil

    return {address.address.partition("%")[0] for each in psutil.net_if_addrs().values() for address in each}


class HaproxyStats:
    """Queries HAProxy until its weights match the agent's replies or the time is over."""

    def __init__(self, context: CheckContext, path: Path) -> None:
        self._context = context
        self._path = path
        self.lines: int | None = None
        self.findings = list(self._look())

    def _look(self) -> Iterator[Finding]:
        path = self._path
        ports = _ports(self._context)
        end_s = time.monotonic() + AGREE_WITHIN_S
        while True:
            try:
                found = servers(path, ports)
            except (OSError, ValueError, KeyError, IndexError) as error:
                yield _unreached(path, error)
                return
            self.lines = sum(server.enabled for server in found)
            if not found:
                what = f"no server in this HAProxy checks an agent on this host at port {listed(sorted(ports))}"
                yield Finding("warn", "haproxy", what, "check its configuration: busyweight haproxy lint FILE")
                return
            pools = _said(self._context)
            judged = [_judge(server, pools) for server in found]
            if all(finding is None or finding.state != "fail" for finding in judged) or time.monotonic() > end_s:
                break
            time.sleep(LOOK_S)
        yield from (finding for finding in judged if finding)
        yield from _small_weights(found)
        well = [server for server, finding in zip(found, judged, strict=True) if finding is None]
        if well:
            shown = listed([f"{server.name} {server.effective} of {server.initial}" for server in well])
            if any(pool["weight"] is not None for pool in pools):
                yield Finding("ok", "haproxy", f"weights match the agent's: {shown}")
            else:
                yield Finding("ok", "haproxy", f"polls the agent, which sends no weight now: {shown}")


def _ports(context: CheckContext) -> set[int]:
    if context.status and context.status["polls"]["listening"]:
        return {values.address(text)[1] for text in context.status["polls"]["listening"]}
    return {number for _, number in context.config.listen}


def _said(context: CheckContext) -> list[dict[str, Any]]:
    """Each pool's current reply; nothing without an agent. HAProxy does not tell which pool a server uses."""
    if context.status is None:
        return []
    try:
        pools: list[dict[str, Any]] = client.ask(context.control, "status")["status"]["pools"]
    except client.ClientError:
        return []
    return pools


def _judge(server: ServerLine, pools: list[dict[str, Any]]) -> Finding | None:
    """What is wrong with one server, or None."""
    if not server.enabled:
        what = f"{server.name}: its agent-check is disabled, so it stays at weight {server.effective}"
        return Finding("warn", "haproxy", what, f"enable agent {server.name}")
    if server.agent_status in ("", "INI"):
        return Finding(
            "fail", "haproxy", f"{server.name}: its agent has not been polled yet", "wait for one agent-inter"
        )
    if not server.agent_status.startswith("L7OK"):
        what = f"{server.name}: HAProxy cannot reach the agent ({server.agent_status} {server.agent_words})"
        remedy = f"check listen, allow and the firewall; until then it stays at weight {server.effective}"
        return Finding("fail", "haproxy", what, remedy)
    weights = [pool["weight"] for pool in pools]
    if not weights or None in weights or any(server.has(weight) for weight in weights):
        return None
    said = listed([quoted(pool["reply"]) for pool in pools], 3)
    what = f"{server.name}: weight {server.effective} of {server.initial}, but the agent replies {said}"
    return Finding(
        "fail", "haproxy", what, "set by hand (show servers state), or a static balance algorithm? See haproxy lint"
    )


def _small_weights(found: list[ServerLine]) -> Iterator[Finding]:
    small = [server for server in found if 0 < server.initial < FULL_WEIGHT]
    if small:
        what = f"servers below weight {FULL_WEIGHT}, where percentages are rounded down: "
        what += listed([f"{server.name} {server.initial}" for server in small])
        yield Finding("warn", "haproxy", what, "set weight 100 on them or on default-server")


def _unreached(path: Path, error: Exception) -> Finding:
    if isinstance(error, FileNotFoundError):
        return Finding("fail", "haproxy", f"no socket at {path}", "give the path of `stats socket` in haproxy.cfg")
    if isinstance(error, ConnectionRefusedError):
        return Finding("fail", "haproxy", f"nothing answers at {path}", "is HAProxy running? systemctl status haproxy")
    if isinstance(error, PermissionError):
        return Finding("fail", "haproxy", f"this user may not connect to {path}", "run doctor as root")
    why = os_error(error) if isinstance(error, OSError) else str(error)
    what = f"{path} does not respond like an HAProxy stats socket: {why}"
    return Finding("fail", "haproxy", what, "give the path of `stats socket` in haproxy.cfg")
