"""WORLD. The metrics port, if one is configured: does this agent answer there? It reads as Prometheus does."""

import http.client
import re
from collections.abc import Iterator

from agent.config import values
from agent.tools import client
from agent.tools.doctor.agent import START, reached
from agent.tools.doctor.context import CheckContext
from agent.tools.doctor.finding import Finding

TIMEOUT_S = 5.0
LEN_MAX = 16 * 1024 * 1024

# When the agent loaded its configuration; it identifies the agent, because two never do so in the same microsecond.
_TAKEN = re.compile(rb"^busyweight_config_last_reload_success_timestamp_seconds (\S+)$", re.MULTILINE)


def metrics(context: CheckContext) -> Iterator[Finding]:
    """Reads the metrics, if the configuration turns them on."""
    address = context.config.metrics.listen
    if address is None:
        return
    if trouble := ((context.status or {}).get("metrics") or {}).get("trouble"):
        yield Finding("fail", "metrics", trouble, "fix that; the agent retries every 30 s")
        return
    shown = values.show_address(address)
    try:
        code, body = _scrape(address)
    except (OSError, http.client.HTTPException) as error:
        yield _unread(context, address, error)
        return
    found = _TAKEN.search(body)
    if code == http.client.SERVICE_UNAVAILABLE:
        what = f"{shown} serves none: {body[:200].decode(errors='replace').strip()}"
        yield Finding("fail", "metrics", what, "the agent is hung: see its log")
    elif found is None:
        yield _other(address, f"{shown} does not answer with busyweight's metrics (HTTP {code})")
    elif (taken_s := _taken(context)) is None:
        what = f"{shown} answers with busyweight's metrics, but it is unknown whether they are this agent's"
        yield Finding("warn", "metrics", what, "run doctor as root and with the agent's --control")
    elif float(found[1]) == taken_s:
        yield Finding("ok", "metrics", f"{shown} serves this agent's metrics")
    else:
        yield _other(address, f"{shown} serves another agent's metrics")


def _scrape(address: tuple[str, int]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*reached(address), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        return response.status, response.read(LEN_MAX)
    finally:
        connection.close()


def _taken(context: CheckContext) -> float | None:
    """When the agent loaded its configuration, from its status; None without an agent."""
    try:
        taken_s: float = client.ask(context.control, "status")["status"]["config"]["reloads"]["taken"]
    except client.ClientError:
        return None
    return taken_s


def _other(address: tuple[str, int], what: str) -> Finding:
    return Finding("fail", "metrics", what, f"another program uses the port: ss -ltnp sport = :{address[1]}")


def _unread(context: CheckContext, address: tuple[str, int], error: Exception) -> Finding:
    shown = values.show_address(address)
    if isinstance(error, ConnectionRefusedError) and context.status is None:
        return Finding("fail", "metrics", f"nothing listens on {shown}", START)
    if isinstance(error, ConnectionRefusedError):
        what = f"nothing listens on {shown}: the agent runs with an older or a different configuration"
        return Finding("fail", "metrics", what, "systemctl reload busyweight")
    if isinstance(error, TimeoutError):
        what = f"{shown} does not answer within {TIMEOUT_S:g} s"
        return Finding(
            "fail", "metrics", what, "the agent is stopped or hung, or a firewall drops packets: see the agent's log"
        )
    if isinstance(error, http.client.HTTPException):
        return _other(address, f"{shown} does not speak HTTP")
    return Finding("fail", "metrics", f"{shown} cannot be read: {str(error).lower()}", "see the agent's log")
