"""Pure: problems of a backend whose servers poll the agent, and of the rules that route to it."""

from collections.abc import Iterator

from .conditions import matches
from .finding import LintFinding, finding, names, note
from .model import Proxy, Rule, Server
from .routes import State, Way, has_maxconn, leading, open_way, spills, words_of
from .scope import Scope, is_hash, slots, weight

# HAProxy keeps 16 nodes for each unit of weight there; from this many units on it matters.
_MANY_UNITS = 20_000
_LOOPBACK = ("", "*", "0.0.0.0", "[::]", "::", "127.0.0.1", "[::1]", "::1", "localhost")


def algorithm(scope: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """Algorithms whose weights cannot change, have no effect, are expensive, or move sessions."""
    balance = scope.balance(backend)
    at, inherited = backend.at, ""
    if backend.balance_at and backend.balance_at.file == at.file and backend.balance_at.line > at.line:
        at = backend.balance_at
    elif backend.balance_at:
        inherited = f" (from {backend.balance_at})"
    what = f"`balance {balance}`{inherited} in {backend.title}"
    consistent = is_hash(balance) and backend.hash_type == "consistent"
    if balance == "static-rr" or (is_hash(balance) and not consistent):
        yield finding(
            at,
            f"{what} is static",
            "It supports only the weights 0% and 100%, so a host that was full stays out of the pool until it is idle",
            "Use roundrobin or leastconn" + (", or `hash-type consistent`" if is_hash(balance) else ""),
        )
    elif balance == "first":
        yield note(
            at,
            f"{what} fills servers in order",
            "It ignores every weight except 0",
            "Use roundrobin or leastconn",
        )
    elif consistent:
        yield note(
            at,
            f"{what} moves clients to other hosts whenever a weight changes",
            "Sessions and caches that a host keeps for a client are lost then, and weights change all day",
            "Keep sessions where all hosts can reach them, or use leastconn; for a cache, the misses may be acceptable",
        )
    units = sum((weight(server) or 0) * server.slots for server in ours)
    if units >= _MANY_UNITS and (consistent or balance.startswith("random")):
        yield note(
            at,
            f"{what} has {units} units of weight",
            "HAProxy keeps 16 tree nodes for each. At weight 100 a server takes 75 KB, and going from 0% to 100% "
            "takes 1 to 2 ms, during which that thread serves no request",
            "Use roundrobin or leastconn, or smaller weights with coarser steps",
        )


def affinity(_: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """Clients that return to a host because of a cookie or a table, whatever its weight is."""
    full = f"{{ srv_weight({backend.name}/{ours[0].name}) eq 0 }}"
    if backend.cookie_at and any(s.settings.cookie for s in ours) and not backend.ignores_persistence:
        at, means = backend.cookie_at, "a cookie"
        remedy = f"`ignore-persist if {full} {{ req.cook(NAME) VALUE }}`"
    elif backend.stick_at:
        at, means = backend.stick_at, "a stick table"
        # There HAProxy's ignore-persist affects only cookies.
        remedy = f"`unless {full} {{ KEY,table_server_id({backend.name}) ID }}` behind `stick on KEY`"
    else:
        return
    yield note(
        at if at.file == backend.at.file and at.line > backend.at.line else backend.at,
        f"Clients of {backend.title} return to their host by {means}",
        "Weight 0 keeps away only new clients; clients with an entry keep coming to a full host",
        f"If you do not want that, write {remedy}, and the same for each server",
    )


def single(_: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """A pool with a single server."""
    serving = [server for server in backend.servers if not server.settings.backup]
    if slots(serving) == 1 and serving[0] in ours:
        beside = " beside backup servers" if len(backend.servers) > 1 else ""
        yield note(
            serving[0].at,
            f"{names(serving)} is the only one in {backend.title}{beside}",
            "With no other server to take the rest, no weight except 0% has an effect",
            "Add the other hosts, or remove agent-check",
        )


def all_at_zero(scope: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """The loss of all servers, unless enough of the backend stays whatever the agents reply; otherwise a missing
    spill, because a rule that is missing for one is also missing for the other."""
    others = [s for s in backend.servers if not scope.polls_ours(s.settings) and not s.settings.disabled]
    stay = [server for server in others if not server.settings.backup and weight(server) != 0]
    spare = [server for server in others if server.settings.backup and weight(server) != 0]
    empty = None if scope.floor_above_zero or stay else open_way(scope.configuration, backend, State.EMPTY)
    if empty and not spare:
        yield _loses_all(backend, empty)
        return
    serving = spare if backend.all_backups else spare[:1]
    if empty and slots(serving) < slots(ours):
        yield finding(
            spare[0].at,
            f"{names(serving)} in {backend.title} {'take' if len(serving) > 1 else 'takes'} all requests once every "
            f"host is full{_led(backend, empty)}",
            f"A backup server then gets all requests that {slots(ours)} hosts shared, and breaks down, or shows "
            "every client a maintenance page, while the hosts only run jobs",
            f"Write {_spill_rule(backend)}{_where(backend, empty)}, with the same servers without agent-check, as "
            "`busyweight haproxy snippet` shows",
        )
        return
    if slots(ours) > 1 and not stay:
        yield from _no_spill(scope, backend)


def _loses_all(backend: Proxy, way: Way) -> LintFinding:
    return finding(
        backend.at,
        f"{backend.title} may lose all its servers at once{_led(backend, way)}",
        "Once every host is full, they all have weight 0, and every client gets a 503",
        f"Write {_spill_rule(backend)}{_where(backend, way)}, with the same servers without agent-check, as "
        '`busyweight haproxy snippet` shows. Or set `floor = "1%"` in busyweight.toml',
    )


def _spill_rule(backend: Proxy) -> str:
    return f"`use_backend {backend.name}_all_busy if {{ be_conn_free({backend.name}) eq 0 }}`"


def _led(backend: Proxy, way: Way) -> str:
    return f" (routed here by {way.at})" if way.at != backend.at else ""


def _where(backend: Proxy, way: Way) -> str:
    if way.refusal:
        return f" instead of {way.refusal}"
    return " before that line" if way.at != backend.at else " where requests are routed to it"


def _no_spill(scope: Scope, backend: Proxy) -> Iterator[LintFinding]:
    way = open_way(scope.configuration, backend, State.BUSY)
    if way is None:
        return
    why = "While jobs fill most hosts, a spike overloads the remaining ones, and most of its requests time out"
    rules = [(front, rule) for front, rule in spills(scope.configuration, backend) if _counts_slots(front, rule)]
    if rules and not has_maxconn(backend):
        yield note(
            rules[0][1].at,
            f"The spill of {backend.title} never starts",
            f"be_conn_free is -1 as long as a server in the pool has no maxconn. {why}",
            "Set maxconn on each server of the backend: its host's cores divided by the number of balancers",
        )
        return
    limit = "" if has_maxconn(backend) else "Set maxconn on the servers (to a host's cores) and write "
    yield note(
        backend.at,
        f"{backend.title} has no spill{_led(backend, way)}",
        why,
        f"{limit or 'Write '}{_spill_rule(backend)}{_where(backend, way)}, as `busyweight haproxy snippet` shows",
    )


def _counts_slots(frontend: Proxy, rule: Rule) -> bool:
    return any(words[:1] and words[0].startswith("be_conn_free(") for words in words_of(rule, frontend))


def spill(scope: Scope, backend: Proxy, ours: list[Server]) -> Iterator[LintFinding]:
    """Rules that send requests elsewhere at the wrong time, or to a place where they cannot be served."""
    rules = list(spills(scope.configuration, backend))
    blind = scope.balance(backend).startswith("random") or is_hash(scope.balance(backend))
    slots_only = [(front, rule) for front, rule in rules if _counts_slots(front, rule)]
    if blind and has_maxconn(backend) and slots_only:
        seen = [words[0] for front, rule in rules for words in words_of(rule, front) if words]
        if not any(word.startswith(("queue(", "avg_queue(")) for word in seen):
            yield note(
                slots_only[0][1].at,
                f"The spill of {backend.title} does not see its queue",
                f"`balance {scope.balance(backend)}` may choose a server at its maxconn, and requests queue there "
                "while be_conn_free still counts free slots on others",
                f"End its condition with `or {{ queue({backend.name}) gt 0 }}`",
            )
    for front, rule in rules:
        if not has_maxconn(backend) and _always(front, rule, backend):
            yield finding(
                rule.at,
                f"All requests for {backend.title} are sent to {rule.target}",
                "be_conn_free is -1 as long as a server in the pool has no maxconn, and that is below the limit",
                "Compare with `eq 0`, and set maxconn on each server",
            )
        yield from _target(scope, backend, ours, rule)


def _always(frontend: Proxy, rule: Rule, backend: Proxy) -> bool:
    """Whether the rule applies to -1, which is not a number of slots."""
    return rule.words[:1] == ("if",) and any(
        words[:1] == (f"be_conn_free({backend.name})",) and matches(list(words[1:]), -1)
        for words in words_of(rule, frontend)
    )


def _target(scope: Scope, backend: Proxy, ours: list[Server], rule: Rule) -> Iterator[LintFinding]:
    target = next((b for b in scope.configuration.backends() if b.name == rule.target), None)
    if target is None or scope.ours(target) or target.rules:
        return
    serving = [server for server in target.servers if not server.settings.disabled and weight(server) != 0]
    for frontend in [*leading(scope.configuration, backend.name), *leading(scope.configuration, target.name)]:
        back = next((server for server in serving if _is_bound(server.address, frontend.binds)), None)
        if back:
            yield finding(
                back.at,
                f"The spill of {backend.title} loops back to where it started",
                f"In {target.title}, the address of {names([back])} is that of {frontend.title}, which sends its "
                "requests here while the pool is at its maxconn, so each request loops until no connection is left",
                "List the hosts themselves there, as `busyweight haproxy snippet` shows",
            )
            return
    if not serving:
        yield finding(
            rule.at,
            f"The spill of {backend.title} leads to {target.title}, which has no usable server",
            "Requests that the pool cannot serve get a 503 there",
            "Give it the same servers as the pool, without agent-check",
        )
    elif slots(serving) < slots(ours):
        yield note(
            rule.at,
            f"The spill of {backend.title} leads to {target.title} with {slots(serving)} of {slots(ours)} servers",
            "These servers must serve everything that the whole pool cannot",
            "Give it all servers of the pool, without agent-check",
        )


def _is_bound(address: str, binds: list[str]) -> bool:
    """Whether a frontend listens on a server's address; names of other machines are not resolved."""
    host, _, port = address.rpartition(":")
    for bind in binds:
        bound, _, bound_port = bind.rpartition(":")
        if address and address.removeprefix("unix@") == bind.removeprefix("unix@"):
            return True
        if port and port == bound_port and host in _LOOPBACK and bound in _LOOPBACK:
            return True
    return False


def reload(scope: Scope, watched: list[tuple[Proxy, list[Server]]]) -> Iterator[LintFinding]:
    """Weights that a reload loses; one note for all backends."""
    bare = [p for p, _ in watched if not _keeps_state(scope, p)]
    if bare:
        others = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
        yield note(
            bare[0].at,
            f"No server state file for {bare[0].title}{others}",
            "After a reload every server has its full weight until its agent is polled again",
            "Save `show servers state` to a server-state-file before each reload, and load it in the backend. Delete "
            "that file when you change a server's port, because HAProxy goes on using the old one",
        )


def _keeps_state(scope: Scope, backend: Proxy) -> bool:
    if backend.state_from == "global":
        return scope.configuration.state_file
    return backend.state_from == "local"


JUDGES = (algorithm, affinity, single, all_at_zero, spill)
