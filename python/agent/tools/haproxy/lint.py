"""Pure but for reading the files: what in haproxy.cfg makes the agent useless or dangerous.

It judges only what concerns the agent, and only server lines that ask an agent on one of the given ports. It
must not find fault with a sound file, nor repeat what `haproxy -c` says itself.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .parse import Configuration, Proxy, Server, Settings, parse, read_files
from .read import LintError, Place, World, configuration_files, is_known, printable
from .routes import State, open_way

# Four unknown conditions are tried in all ways; of more, those nearest to "all hold".
_MOST_READINGS = 16
_MOST_NAMES = 3
_MOST_DIGITS = 9
_FULL_WEIGHT = 100
_DEFAULT_WEIGHT = "1"
# These keep servers in a map that is built once, unless `hash-type consistent` makes it a tree.
_HASHING = ("source", "uri", "url_param", "hash", "hdr(", "rdp-cookie")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to mend. A `note` is worth knowing and no fault."""

    file: str
    line: int
    severity: Literal["finding", "note"]
    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        head = "note: " if self.severity == "note" else ""
        return printable(f"{self.file}:{self.line}: {head}{self.what}, {self.why}, {self.remedy}")


def lint(
    files: Sequence[Path],
    ports: Collection[int],
    *,
    all_checks: bool = False,
    floor_above_zero: bool = False,
    environment: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Findings and notes, in the order of the files and their lines. Raises LintError.

    `files` are files and directories as HAProxy's `-f` takes them, and are one configuration together. An
    agent check is ours if its port is in `ports`, or if `all_checks`. With `floor_above_zero` the agent never
    answers 0 %, so no backend can lose all its servers. `environment` stands for HAProxy's own, by default
    this process's; what hangs on a variable missing from it is noted, not judged. Where `.if` asks what only
    the running HAProxy knows, both answers are tried.
    """
    paths = configuration_files(files)
    variables = dict(os.environ if environment is None else environment)
    readings = _readings(read_files(paths), variables)
    if not any(configuration.sections for configuration in readings):
        raise LintError(paths[0], "no section in it, not an HAProxy configuration")

    found: dict[Finding, None] = {}
    for configuration in readings:
        judge = _Judge(configuration, frozenset(ports), all_checks, floor_above_zero)
        found.update(dict.fromkeys(judge.findings()))
    order = {str(path): index for index, path in reversed(list(enumerate(paths)))}
    return sorted(found, key=lambda f: (order[f.file], f.line, f.severity, f.what))


def _readings(texts: Sequence[tuple[Path, str]], variables: dict[str, str]) -> list[Configuration]:
    """The configurations that the texts may be, by the conditions whose truth cannot be known here."""
    readings: list[Configuration] = []
    todo: list[dict[str, bool]] = [{}]
    while todo and len(readings) < _MOST_READINGS:
        assumed = todo.pop(0)
        world = World(dict(variables), dict(assumed))
        readings.append(parse(texts, world))
        # Each condition met for the first time was taken for true: try it false, those before it as they are.
        met = list(world.assumed.items())
        todo += [{**dict(met[:i]), met[i][0]: False} for i in range(len(assumed), len(met))]
    return readings


@dataclass(frozen=True, slots=True)
class _Judge:
    """One reading of one configuration, and what counts in it."""

    configuration: Configuration
    ports: frozenset[int]
    all_checks: bool
    floor_above_zero: bool

    def findings(self) -> Iterator[Finding]:
        watched = [(p, ours) for p in self.configuration.backends() if (ours := self._ours(p))]
        for backend, ours in watched:
            yield from _weights(backend, ours)
            yield from _algorithm(backend)
            if not self.floor_above_zero:
                yield from self._all_at_zero(backend)
        yield from self._mixed_agent_send(watched)
        yield from self._reload(watched)
        yield from self._unknown_ports()

    def _ours(self, backend: Proxy) -> list[Server]:
        return [server for server in backend.servers if self._asks_ours(server.settings)]

    def _asks_ours(self, settings: Settings) -> bool:
        return settings.agent and (self.all_checks or _number(settings.port) in self.ports)

    def _all_at_zero(self, backend: Proxy) -> Iterator[Finding]:
        """The loss of all servers, unless some server of the backend stays whatever the agents say."""
        for server in backend.servers:
            stays = not self._asks_ours(server.settings) and not server.settings.disabled
            if stays and _number(server.settings.weight or _DEFAULT_WEIGHT) != 0:
                return
        way = open_way(self.configuration, backend, State.EMPTY)
        if way is None:
            return
        led, where = (f" (led here by {way.at})", " before that") if way.at != backend.at else ("", "")
        if way.refusal:
            where = f", in place of {way.refusal},"
        yield _finding(
            backend.at,
            f"{backend.title} may lose all its servers at once{led}",
            "once every host is full each of them has weight 0 and every client gets a 503",
            f"add{where} `use_backend {backend.name}_all_busy if {{ nbsrv({backend.name}) eq 0 }}`: the same "
            'servers without agent-check, as `busyweight haproxy snippet` shows, or set floor = "1%"',
        )

    def _mixed_agent_send(self, watched: list[tuple[Proxy, list[Server]]]) -> Iterator[Finding]:
        """Agent-send on some. Every agent check of the configuration counts, for all share one set of rules."""
        checked = [s for p in self.configuration.backends() for s in p.servers if s.settings.agent]
        sender = next((server for server in checked if server.settings.agent_send), None)
        if sender is None:
            return
        for backend, ours in watched:
            silent = [server for server in ours if not server.settings.agent_send]
            for at, servers in _by_place(backend, silent, lambda s: s.agent_at):
                yield _finding(
                    at,
                    f"{_names(servers)} in {backend.title} without agent-send but {sender.at} with it",
                    "one agent-send anywhere delays every agent-check without one by 200 ms",
                    "give agent-send to all agent-checked servers or to none",
                )

    def _reload(self, watched: list[tuple[Proxy, list[Server]]]) -> Iterator[Finding]:
        """Weights lost in a reload, noted once for all backends."""
        bare = [p for p, _ in watched if not self._keeps_state(p)]
        if bare:
            others = f" and {len(bare) - 1} more" if len(bare) > 1 else ""
            yield _note(
                bare[0].at,
                f"no server state file for {bare[0].title}{others}",
                "after a reload every server has its full weight until its agent is asked again",
                "save `show servers state` before reloads to a server-state-file and load it in the backend",
            )

    def _keeps_state(self, backend: Proxy) -> bool:
        if backend.state_from == "global":
            return self.configuration.state_file
        return backend.state_from == "local"

    def _unknown_ports(self) -> Iterator[Finding]:
        for backend in self.configuration.backends():
            for server in backend.servers:
                port = server.settings.port
                if server.settings.agent and port and not is_known(port) and not self.all_checks:
                    yield _note(
                        server.at,
                        f"agent-port of server {server.name} is {port}",
                        "that variable is not set here, so the server is not judged",
                        "set it as HAProxy has it, or use --all",
                    )


def _weights(backend: Proxy, ours: list[Server]) -> Iterator[Finding]:
    """HAProxy takes the percentage of the server's own weight in whole numbers, rounded down."""
    small: dict[int, list[Server]] = {}
    for server in ours:
        number = _number(server.settings.weight or _DEFAULT_WEIGHT)
        if number is not None and number < _FULL_WEIGHT:
            small.setdefault(number, []).append(server)
    for number, servers in small.items():
        said = "" if servers[0].settings.weight_at else " by default"
        for at, some in _by_place(backend, servers, lambda s: s.weight_at):
            what = f"{_names(some)} in {backend.title} of weight {number}{said}"
            if number == 0:
                yield _note(at, what, "whatever the agent says, no share of it is above 0", "set weight 100 to use it")
                continue
            lowest = -(-100 // number)
            yield _finding(
                at,
                what,
                f"HAProxy rounds the agent's share of it down and all below {lowest}% is 0, out of the pool",
                "set weight 100, or scale the weights of the backend to 100 and more (256 is the most)",
            )


def _algorithm(backend: Proxy) -> Iterator[Finding]:
    """Algorithms whose weights cannot change, or do not count."""
    balance = backend.balance or "roundrobin"
    at, inherited = backend.at, ""
    if backend.balance_at and backend.balance_at.file == at.file and backend.balance_at.line > at.line:
        at = backend.balance_at
    elif backend.balance_at:
        inherited = f" (from {backend.balance_at})"
    hashing = balance.startswith(_HASHING) and backend.hash_type != "consistent"
    if balance == "static-rr" or hashing:
        yield _finding(
            at,
            f"balance {balance}{inherited} in {backend.title} is static",
            "it takes no weights but 0% and 100%, so a host once full stays out until it is idle",
            "use roundrobin, leastconn or random" + (", or `hash-type consistent`" if hashing else ""),
        )
    elif balance == "first":
        yield _note(
            at,
            f"balance first{inherited} in {backend.title}",
            "it fills servers in their order and heeds no weight but 0",
            "use roundrobin, leastconn or random",
        )


def _by_place(
    backend: Proxy, servers: list[Server], origin: Callable[[Settings], Place | None]
) -> Iterator[tuple[Place, list[Server]]]:
    """Servers by the line to mend: their own, the backend's default-server, or the backend's first line for
    what comes from `defaults`. So one line at fault is one finding, however many servers it serves."""
    places: dict[Place, list[Server]] = {}
    for server in servers:
        at = origin(server.settings) or server.at
        if at != server.at and at not in backend.default_server_lines:
            at = backend.at
        places.setdefault(at, []).append(server)
    yield from places.items()


def _names(servers: list[Server]) -> str:
    names = ", ".join(server.name for server in servers[:_MOST_NAMES])
    more = f" and {len(servers) - _MOST_NAMES} more" if len(servers) > _MOST_NAMES else ""
    return f"server{'s' if len(servers) > 1 else ''} {names}{more}"


def _number(word: str | None) -> int | None:
    """A number as C's atol reads it, None where a variable is not known here."""
    if word is None or not is_known(word):
        return None
    digits = ""
    for char in word.strip():
        if not char.isascii() or not char.isdigit():
            break
        digits += char
    return int(digits[:_MOST_DIGITS] or 0)


def _finding(at: Place, what: str, why: str, remedy: str) -> Finding:
    return Finding(at.file, at.line, "finding", what, why, remedy)


def _note(at: Place, what: str, why: str, remedy: str) -> Finding:
    return Finding(at.file, at.line, "note", what, why, remedy)
