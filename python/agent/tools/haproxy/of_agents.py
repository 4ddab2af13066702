"""Pure: what is wrong with how an agent is asked: by whom, where, with what line, and how often.

What its answers do to a server is for `of_servers`, and to a pool for `of_pools`.
"""

from collections.abc import Iterator

from .finding import LintFinding, by_place, finding, have, milliseconds, names, note
from .parse import Proxy, Server
from .read import is_known
from .scope import Scope, slots

# A weight that is older than this is no news; the snippet asks four times a second.
_INTER_MS_MAX = 10_000
_Watched = list[tuple[Proxy, list[Server]]]


def seldom(_: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """Agents that are polled too rarely."""
    slow = [server for server in ours if (milliseconds(server.settings.agent_inter) or 0) > _INTER_MS_MAX]
    for at, servers in by_place(backend, slow, lambda s: s.agent_inter_at):
        inter = servers[0].settings.agent_inter
        yield note(
            at,
            f"{names(servers)} in {backend.title} {have(servers)} agent-inter {inter}",
            "For that long a host that has become full keeps getting requests, and one that has become idle gets none",
            "Write `agent-inter 250ms`",
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
                "Remove agent-addr, so that each server's own host is polled, unless they are all on that one",
            )


def lines(scope: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """What agent-send says, or does not say, to an agent that waits for the name of a pool."""
    # Where its configuration is not known, it may have no pools, and then it waits for nothing.
    say = finding if scope.pools else note
    endless = [s for s in ours if (sent := s.settings.agent_send) is not None and not sent.endswith(("\n", "\r"))]
    for at, servers in by_place(backend, endless, lambda s: s.agent_send_at):
        yield say(
            at,
            f"The agent-send of {_of(servers)} in {backend.title} is a line without an end",
            "An agent with pools waits for its end for `limits.deadline`, a second, and then answers for the default "
            "pool; with a shorter agent-inter HAProxy has given up by then",
            'Write it as `agent-send "NAME\\n"`, in double quotes',
        )
    if not scope.pools:
        return
    for at, servers in by_place(backend, [s for s in ours if s not in endless], lambda s: s.agent_send_at):
        sent = servers[0].settings.agent_send
        if sent is not None and is_known(sent) and sent.strip() not in scope.pools:
            yield finding(
                at,
                f"The agent-send of {_of(servers)} in {backend.title} names {sent.strip()!r}, which is no pool",
                "An agent answers for its default pool then",
                "Name one of the agent's pools, or add [pools.NAME] to its busyweight.toml",
            )
    silent = [server for server in ours if server.settings.agent_send is None]
    if silent and not _senders(scope):
        yield finding(
            silent[0].at,
            f"{names(silent)} in {backend.title} {have(silent)} no agent-send, and the agent has pools",
            "It waits for the name of one for `limits.deadline`, a second, and then answers for the default pool; with "
            "a shorter agent-inter HAProxy has given up by then",
            'Give agent-send to all agent-checked servers, as in `agent-send "NAME\\n"`',
        )


def _of(servers: list[Server]) -> str:
    text = names(servers)
    return text[:1].lower() + text[1:]


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
                f"{names(servers)} in {backend.title} {have(servers)} agent-check without "
                f"agent-send, and {sender.at} has it with agent-send",
                "One agent-send anywhere delays every agent-check without one by 200 ms",
                "Give agent-send to all agent-checked servers, or to none",
            )


def unknown_ports(scope: Scope) -> Iterator[LintFinding]:
    """Servers for which it is unknown whether they poll our agent."""
    for backend in scope.configuration.backends():
        for server in backend.servers:
            port = server.settings.port
            if server.settings.agent and port and not is_known(port) and not scope.all_checks:
                yield note(
                    server.at,
                    f"The agent-port of server {server.name} is {port}, and that variable is not set here",
                    "HAProxy's environment decides which agent is polled, so this server is not checked",
                    "Set the variable as HAProxy has it, or use --all",
                )


def without_agent_check(scope: Scope) -> Iterator[LintFinding]:
    """Servers that say where their agent is, and do not ask it. What they inherit counts if nobody asks by it."""
    backends = scope.configuration.backends()
    asking = {s.settings.agent_port_at for p in backends for s in p.servers if s.settings.agent}
    for backend in backends:
        silent = [server for server in backend.servers if means_to_ask(scope, server)]
        for at, servers in by_place(backend, silent, lambda s: s.agent_port_at):
            own = at == servers[0].at
            if own or servers[0].settings.agent_port_at not in asking:
                yield finding(
                    at,
                    f"{names(servers)} in {backend.title} {have(servers)} agent-port and no agent-check",
                    "HAProxy accepts such a line without a warning, and never polls the agent",
                    "Add agent-check",
                )


def means_to_ask(scope: Scope, server: Server) -> bool:
    """Whether a server that asks no agent names ours."""
    settings = server.settings
    if settings.agent or settings.agent_refused or settings.disabled or settings.tracked is not None:
        return False
    return settings.agent_port is not None and scope.is_ours(settings.agent_port) and not settings.backup


def nobody(scope: Scope) -> LintFinding | None:
    """A configuration in which there is nothing to judge."""
    servers = [server for backend in scope.configuration.backends() for server in backend.servers]
    if any(scope.asks_ours(s.settings) or means_to_ask(scope, s) for s in servers):
        return None
    asking = [server for server in servers if server.settings.agent]
    if any(not is_known(server.settings.port or "") for server in asking):
        return None  # which is noted
    ports = " or ".join(str(port) for port in sorted(scope.ports))
    if asking:
        return note(
            asking[0].at,
            f"No server polls an agent on port {ports}, but {asking[0].name} polls one on {asking[0].settings.port}",
            "Agents on other ports are not checked: they may belong to others, or be a tunnel to this one",
            "Use --all to check them, or name the agent's configuration with --config",
        )
    if not scope.configuration.proxies:
        return None
    return note(
        (scope.configuration.backends() or scope.configuration.proxies)[0].at,
        f"No server polls an agent on port {ports}",
        "HAProxy polls none by itself",
        f"Add `agent-check agent-port {min(scope.ports)}` to the servers, as `busyweight haproxy snippet` shows",
    )


JUDGES = (seldom, one_agent, lines)
