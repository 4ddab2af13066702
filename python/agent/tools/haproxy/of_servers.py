"""Pure: problems of server lines that poll the agent."""

from collections.abc import Iterator

from .finding import LintFinding, by_place, finding, have, names, note
from .model import Proxy, Server
from .of_agents import seems_to_poll
from .scope import Scope, slots, weight

_FULL_WEIGHT = 100
# In these versions a server whose health check failed stays down until the agent says `up`.
_STAYS_DOWN = ((3, 3, 0), (3, 4, 0))
# Since this version a server that tracks another must not have init-state.
_INIT_STATE_FATAL = (3, 2)


def weights(_: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """Weights below 100: HAProxy takes the agent's percentage of them and rounds down."""
    small: dict[int, list[Server]] = {}
    for server in ours:
        known = weight(server)
        if known is not None and known < _FULL_WEIGHT:
            small.setdefault(known, []).append(server)
    for value, servers in small.items():
        said = "" if servers[0].settings.weight_at else " by default"
        for at, some in by_place(backend, servers, lambda s: s.weight_at):
            what = f"{have(backend, some)} weight {value}{said}"
            if value == 0:
                yield note(
                    at,
                    what,
                    "Any percentage of it is 0, whatever the agent replies",
                    "Set `weight 100` to use the server",
                )
                continue
            lowest = -(-100 // value)
            steps = f", and above that it moves in steps of about {lowest}%" if value > 1 else ""
            yield finding(
                at,
                what,
                f"HAProxy takes the agent's percentage of it and rounds down, so anything below {lowest}% is 0 and "
                f"takes the host out of the pool{steps}",
                "Set `weight 100`, or scale the backend's weights to 100 and more (at most 256)",
            )


def slowstart(_: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """Slowstart, which begins when a server comes up, and which an agent's percentage does not trigger."""
    slow = [server for server in ours if server.settings.slowstart_at]
    for at, servers in by_place(backend, slow, lambda s: s.slowstart_at):
        yield note(
            at,
            f"{have(backend, servers)} slowstart",
            "It applies when a server comes up, not when an agent's reply goes from 0% to 100%: that weight applies "
            "at once",
            'If the weight must rise gradually, set `rise = "5%/s"` in busyweight.toml',
        )


def dns_weights(_: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """Servers from SRV records, whose weights HAProxy applies at every resolution."""
    srv = [s for s in ours if s.address.startswith("_") and not s.settings.ignores_dns_weight]
    for server in srv:
        yield finding(
            server.at,
            f"{names([server])} in {backend.title} takes its weight from DNS and from the agent",
            "Each overwrites the other's weight, so a full host is back in the pool whenever "
            "its SRV record is resolved",
            "Add `resolve-opts ignore-weight`",
        )


def stays_down(scope: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """A bug in HAProxy 3.3.0 to 3.4.0 that affects agents that do not send `up`."""
    checked = [server for server in ours if server.settings.check]
    if not (scope.bare_replies and checked):
        return
    first, last = _STAYS_DOWN
    if scope.version and not first <= (*scope.version, 0, 0)[:3] <= last:
        return
    # With an unknown version it is only a note, because most HAProxy versions are not affected.
    say = finding if scope.version else note
    yield say(
        backend.at,
        f'{backend.title} has health checks, and the agent has `health = "none"`',
        "In HAProxy 3.3.0 to 3.4.0 a server whose health check has failed once stays down until its agent says `up`, "
        "which this one never does",
        'Set `health = "up"` in busyweight.toml, or use another HAProxy version'
        + ("" if scope.version else ", and name it with --haproxy-version"),
    )


def some_without(scope: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """Servers that keep their weight, next to those whose weight falls."""
    others = [s for s in backend.servers if not (s.settings.agent or s.settings.backup or s.settings.disabled)]
    others = [server for server in others if weight(server) != 0 and not seems_to_poll(scope, server)]
    if not others:
        return
    yield note(
        others[0].at,
        f"{have(backend, others)} no agent-check, beside {slots(ours)} with one",
        "The weight of a server without it never falls, so it gets more requests as the others fill up, and all of "
        "them once those are full",
        "Run the agent on that host too, and add agent-check to its server line",
    )


def tracked_init_state(scope: Scope) -> Iterator[LintFinding]:
    """Init-state on servers that track ours; usually inherited."""
    backends = scope.configuration.backends()
    asked = {f"{backend.name}/{server.name}" for backend in backends for server in scope.ours(backend)}
    for backend in backends:
        tracking = [s for s in backend.servers if s.settings.tracked in asked and s.settings.init_state_at]
        for at, servers in by_place(backend, tracking, lambda s: s.init_state_at):
            say = finding if scope.version >= _INIT_STATE_FATAL else note
            yield say(
                at,
                f"{have(backend, servers)} init-state and track",
                "HAProxy 3.2 and later refuse to start with both",
                "Remove init-state from the `default-server` that they inherit it from, and set it on the servers "
                "with their own health check",
            )


JUDGES = (weights, slowstart, dns_weights, stays_down, some_without)
