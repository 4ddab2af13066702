"""Pure: problems with how agents are polled: which servers poll which agent, with what agent-send, and how often.

`of_servers` judges what the replies do to a server, `of_pools` what they do to a backend.
"""

from collections.abc import Iterator

from .finding import LintFinding, by_place, finding, have, milliseconds, names, note
from .model import Proxy, Server
from .read import is_known
from .scope import Scope, slots

# With a longer interval, weights are out of date; the snippet polls four times a second.
_INTER_MS_MAX = 10_000
_Watched = list[tuple[Proxy, list[Server]]]


def rarely_polled(_: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """Agents that are polled too rarely."""
    slow = [server for server in ours if (milliseconds(server.settings.agent_inter) or 0) > _INTER_MS_MAX]
    for at, servers in by_place(backend, slow, lambda s: s.agent_inter_at):
        inter = servers[0].settings.agent_inter
        yield note(
            at,
            f"{have(backend, servers)} agent-inter {inter}",
            "For that long, a host that fills up keeps getting requests, and one that becomes idle gets none",
            "Set `agent-inter 250ms`",
        )


def one_agent(_: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """One host's weight used for several."""
    asked: dict[tuple[str, str | None], list[Server]] = {}
    for server in ours:
        if (addr := server.settings.agent_addr) is not None:
            asked.setdefault((addr, server.settings.port), []).append(server)
    for (addr, port), servers in asked.items():
        hosts = {server.address.rpartition(":")[0] for server in servers}
        if slots(servers) > 1 and (len(hosts) > 1 or servers[0].slots > 1) and is_known(addr):
            at = next(by_place(backend, servers, lambda s: s.agent_addr_at))[0]
            yield note(
                at,
                f"{names(servers)} in {backend.title} poll one agent, {addr} on port {port}",
                "An agent reports how busy its own host is, so the jobs of that host set the weight of all of them",
                "Remove agent-addr, so that each server's own host is polled, unless all servers are on that one host",
            )


def agent_send(scope: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """An agent-send that is missing, incomplete, or names no pool, for an agent that waits for a pool's name."""
    # If its configuration is unknown, it may have no pools, and then it does not wait for a line.
    say = finding if scope.pools else note
    unended = [s for s in ours if (sent := s.settings.agent_send) is not None and not sent.endswith(("\n", "\r"))]
    for at, servers in by_place(backend, unended, lambda s: s.agent_send_at):
        yield say(
            at,
            f"The agent-send of {names(servers)} in {backend.title} has no newline at its end",
            "An agent with pools waits up to `limits.deadline` (1s by default) for the newline, then replies for the "
            "default pool; with a shorter agent-inter HAProxy has given up by then",
            'Write `agent-send "NAME\\n"`, in double quotes',
        )
    if not scope.pools:
        return
    for at, servers in by_place(backend, [s for s in ours if s not in unended], lambda s: s.agent_send_at):
        sent = servers[0].settings.agent_send
        if sent is not None and is_known(sent) and sent.strip() not in scope.pools:
            yield finding(
                at,
                f"The agent-send of {names(servers)} in {backend.title} names {sent.strip()!r}, which is not a pool",
                "The agent then replies for its default pool",
                "Name one of the agent's pools, or add [pools.NAME] to busyweight.toml",
            )
    silent = [server for server in ours if server.settings.agent_send is None]
    if silent and not _senders(scope):
        yield finding(
            silent[0].at,
            f"{have(backend, silent)} no agent-send, but the agent has pools",
            "It waits up to `limits.deadline` (1s by default) for a pool's name and then replies for the default pool; "
            "with a shorter agent-inter HAProxy has given up by then",
            'Set `agent-send "NAME\\n"` on all agent-checked servers',
        )


def _senders(scope: Scope) -> list[Server]:
    """The servers with agent-send. Every agent check in the configuration counts: all share one set of rules."""
    checked = [s for p in scope.configuration.backends() for s in p.servers if s.settings.agent]
    return [server for server in checked if server.settings.agent_send is not None]


def mixed_agent_send(scope: Scope, watched: _Watched) -> Iterator[LintFinding]:
    """Agent-send on some servers only."""
    sender = next(iter(_senders(scope)), None)
    if sender is None:
        return
    for backend, ours in watched:
        silent = [server for server in ours if server.settings.agent_send is None]
        for at, servers in by_place(backend, silent, lambda s: s.agent_at):
            yield finding(
                at,
                f"{have(backend, servers)} agent-check without agent-send, and {sender.at} has it with agent-send",
                "One agent-send anywhere delays every agent-check without one by 200 ms",
                "Set agent-send on all agent-checked servers, or on none",
            )


def unknown_ports(scope: Scope) -> Iterator[LintFinding]:
    """Servers that may or may not poll our agent: their port is a variable that is not set here."""
    for backend in scope.configuration.backends():
        for server in backend.servers:
            port = server.settings.port
            if server.settings.agent and port and not is_known(port) and not scope.all_checks:
                yield note(
                    server.at,
                    f"The agent-port of server {server.name} is {port}, and that variable is not set here",
                    "HAProxy's environment decides which agent is polled, so this server is not checked",
                    "Set the variable to the value that HAProxy has, or use --all",
                )


def without_agent_check(scope: Scope) -> Iterator[LintFinding]:
    """Servers with an agent-port that they never poll. An inherited agent-port counts only if no server uses it."""
    backends = scope.configuration.backends()
    asking = {s.settings.agent_port_at for p in backends for s in p.servers if s.settings.agent}
    for backend in backends:
        silent = [server for server in backend.servers if seems_to_poll(scope, server)]
        for at, servers in by_place(backend, silent, lambda s: s.agent_port_at):
            own = at == servers[0].at
            if own or servers[0].settings.agent_port_at not in asking:
                yield finding(
                    at,
                    f"{have(backend, servers)} agent-port but no agent-check",
                    "HAProxy accepts such a line without a warning, but never polls the agent",
                    "Add agent-check",
                )


def seems_to_poll(scope: Scope, server: Server) -> bool:
    """Whether a server that polls no agent names ours: agent-check is probably missing."""
    settings = server.settings
    if settings.agent or settings.agent_refused or settings.disabled or settings.tracked is not None:
        return False
    return settings.agent_port is not None and scope.is_ours(settings.agent_port) and not settings.backup


def nobody_polls(scope: Scope) -> LintFinding | None:
    """A note if no server polls our agent, so there is nothing to check."""
    servers = [server for backend in scope.configuration.backends() for server in backend.servers]
    if any(scope.polls_ours(s.settings) or seems_to_poll(scope, s) for s in servers):
        return None
    asking = [server for server in servers if server.settings.agent]
    if any(not is_known(server.settings.port or "") for server in asking):
        return None  # `unknown_ports` notes it
    ports = " or ".join(str(port) for port in sorted(scope.ports))
    if asking:
        return note(
            asking[0].at,
            f"No server polls an agent on port {ports}, but {asking[0].name} polls one on {asking[0].settings.port}",
            "Agents on other ports are not checked: they may be other agents, or a tunnel to this one",
            "Use --all to check them, or pass the agent's configuration with --config",
        )
    if not scope.configuration.proxies:
        return None
    return note(
        (scope.configuration.backends() or scope.configuration.proxies)[0].at,
        f"No server polls an agent on port {ports}",
        "HAProxy polls an agent only for servers with agent-check",
        f"Add `agent-check agent-port {min(scope.ports)}` to the servers, as `busyweight haproxy snippet` shows",
    )


JUDGES = (rarely_polled, one_agent, agent_send)
