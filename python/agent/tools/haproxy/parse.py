"""Lines of words -> the proxies that HAProxy would build from them, with everything that affects agent checks.

It follows what is inherited (`defaults`, also named ones, `default-server` above the line) and drops the rest. It
judges nothing and never refuses a keyword: `haproxy -c` checks whether a file is valid.

Rules from HAProxy's configuration.txt and src/server.c:parse_server, src/check.c, src/cfgparse-listen.c.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .read import SECTIONS, Line, LintError, Place, World, lines_of, read_text

_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
PROXIES = frozenset(("frontend", "backend", "listen", "defaults"))
# Keywords of a server line that take one value, from the keyword tables of 2.6 to 3.5: a cookie may well be called
# "check". A keyword of a later version is assumed to take no value.
_WITH_VALUE = frozenset(
    "addr agent-addr agent-inter agent-port agent-send alpn "  # noqa: SIM905 (a list has one word a line)
    "ca-file cc check-alpn check-pool-conn-name check-proto check-sni ciphers ciphersuites client-sigalgs "
    "cookie crl-file crt curves downinter error-limit fall fastinter guid hash-key healthcheck id "
    "idle-ping init-addr init-state inter interface ktls log-bufsize log-proto max-reuse maxconn maxqueue "
    "minconn namespace npn observe on-error on-marked-down on-marked-up pool-conn-name pool-low-conn "
    "pool-max-conn pool-purge-delay port proto proxy-v2-options quic-cc-algo redir resolve-net resolve-opts "
    "resolve-prefer resolvers rise shard sigalgs slowstart sni socks4 source ssl-max-ver ssl-min-ver "
    "tcp-md5sig tcp-ut track usesrc verify verifyhost weight ws".split()
)

# What a server's keyword leaves in Settings: its value, a truth, the place where it stands.
_KEPT = {
    "agent-addr": "agent_addr",
    "agent-inter": "agent_inter",
    "agent-port": "agent_port",
    "agent-send": "agent_send",
    "maxconn": "maxconn",
    "port": "check_port",
    "track": "tracked",
    "weight": "weight",
}
_FLAGS = {
    "backup": ("backup", True),
    "no-backup": ("backup", False),
    "check": ("check", True),
    "no-check": ("check", False),
    "cookie": ("cookie", True),
    "disabled": ("disabled", True),
    "enabled": ("disabled", False),
}
_PLACED = {
    "agent-addr": "agent_addr_at",
    "agent-inter": "agent_inter_at",
    "agent-port": "agent_port_at",
    "agent-send": "agent_send_at",
    "init-state": "init_state_at",
    "slowstart": "slowstart_at",
    "weight": "weight_at",
}


@dataclass(slots=True)
class Settings:
    """The settings after a `server` or `default-server` line. Values are as written, None if unset."""

    weight: str | None = None
    weight_at: Place | None = None
    agent: bool = False
    agent_at: Place | None = None
    agent_refused: bool = False
    agent_addr: str | None = None
    agent_addr_at: Place | None = None
    agent_inter: str | None = None
    agent_inter_at: Place | None = None
    agent_port: str | None = None
    agent_port_at: Place | None = None
    agent_send: str | None = None
    agent_send_at: Place | None = None
    check_port: str | None = None
    backup: bool = False
    disabled: bool = False
    check: bool = False
    maxconn: str | None = None
    cookie: bool = False
    tracked: str | None = None
    init_state_at: Place | None = None
    slowstart_at: Place | None = None
    ignores_dns_weight: bool = False

    @property
    def port(self) -> str | None:
        """The agent's port: its own, or that of the health check."""
        return self.agent_port if self.agent_port is not None else self.check_port


@dataclass(frozen=True, slots=True)
class Server:
    """One `server` line, or the slots of one `server-template` line."""

    name: str
    at: Place
    settings: Settings
    address: str = ""
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Rule:
    """A line that may send a request elsewhere. `target` is where, or the status with which it answers itself.

    `words` are its condition, from `if` or `unless` on. `phase` is `tcp-request` or `http-request`, else nothing.
    """

    kind: str
    target: str
    words: tuple[str, ...]
    at: Place
    phase: str = ""


@dataclass(slots=True)
class Proxy:
    """One section. A `defaults` section is a proxy, too, that others are copied from."""

    kind: str
    name: str
    at: Place
    default_server: Settings = field(default_factory=Settings)
    default_server_lines: set[Place] = field(default_factory=set)
    servers: list[Server] = field(default_factory=list)
    balance: str | None = None
    balance_at: Place | None = None
    hash_type: str = "map-based"
    binds: list[str] = field(default_factory=list)
    binds_tls: set[bool] = field(default_factory=set)
    cookie_at: Place | None = None
    stick_at: Place | None = None
    ignores_persistence: bool = False
    all_backups: bool = False
    default_backend: str | None = None
    default_backend_at: Place | None = None
    rules: list[Rule] = field(default_factory=list)
    acls: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    disabled: bool = False
    state_from: str = "none"

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(slots=True)
class Configuration:
    """All that was read. `sections` counts those of every kind."""

    proxies: list[Proxy] = field(default_factory=list)
    sections: int = 0
    state_file: bool = False

    def backends(self) -> list[Proxy]:
        return [p for p in self.proxies if p.kind in ("backend", "listen") and not p.disabled]

    def frontends(self) -> list[Proxy]:
        return [p for p in self.proxies if p.kind in ("frontend", "listen") and not p.disabled]


def parse(files: Sequence[tuple[Path, str]], world: World) -> Configuration:
    """Files in HAProxy's order (what `defaults` said in one holds in the next) -> one Configuration."""
    reader = _Parser(world)
    for path, text in files:
        for line in lines_of(path, text, world):
            reader.take(line)
    return reader.configuration


def read_files(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Every file with its text, so that one reading of the disk serves several parses."""
    return [(path, read_text(path)) for path in paths]


class _Parser:
    """Takes line after line; holds the section it is in and the `defaults` in force."""

    def __init__(self, world: World) -> None:
        self.configuration = Configuration()
        self._world = world
        self._section = ""
        self._proxy: Proxy | None = None
        self._defaults: Proxy | None = None
        self._named: dict[str, Proxy] = {}

    def take(self, line: Line) -> None:
        keyword = line.words[0]
        if keyword in SECTIONS:
            self._begin(line)
        elif self._section == "global":
            self._global(line.words)
        elif self._proxy is not None:
            _PROXY_LINES.get(keyword, _ignore)(self._proxy, line)

    def _begin(self, line: Line) -> None:
        self.configuration.sections += 1
        self._section = line.words[0]
        self._proxy = None
        if self._section not in PROXIES:
            return
        words = list(line.words[1:])
        nameless = self._section == "defaults" and words[:1] in ([], ["from"])
        name = "" if nameless else "".join(words[:1])
        if not nameless and not _NAME.fullmatch(name):
            why = f"{self._section} wants a name, not {name!r}, not an HAProxy configuration"
            raise LintError(line.at.file, f"line {line.at.line}: {why}")
        words = words[0 if nameless else 1 :]
        parent = None if self._section == "defaults" else self._defaults
        if words[:1] == ["from"] and len(words) > 1:
            parent = self._named.get(words[1])
        proxy = copy.deepcopy(parent) if parent else Proxy("", "", line.at)
        proxy.kind, proxy.name, proxy.at = self._section, name, line.at
        proxy.default_server_lines = set()
        self._proxy = proxy
        if self._section == "defaults":
            self._defaults = self._named[name] = proxy
        else:
            self.configuration.proxies.append(proxy)

    def _global(self, words: tuple[str, ...]) -> None:
        variables = self._world.variables
        match words:
            case ("server-state-file", _, *_):
                self.configuration.state_file = True
            case ("setenv", name, value, *_):
                variables[name] = value
            case ("presetenv", name, value, *_):
                variables.setdefault(name, value)
            case ("unsetenv", *names):
                for name in names:
                    variables.pop(name, None)
            case ("resetenv", *names):
                for name in variables.keys() - set(names):
                    del variables[name]


def _ignore(proxy: Proxy, line: Line) -> None:
    """Most lines of a configuration have no part in this."""


def _server(proxy: Proxy, line: Line) -> None:
    skip = 4 if line.words[0] == "server-template" else 3
    if len(line.words) < skip:
        return
    settings = copy.copy(proxy.default_server)
    _apply(settings, line.words[skip:], line.at)
    slots = 1
    if skip == 4 and (match := re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,6})", line.words[2])):
        slots = int(match[2]) - int(match[1] or 1) + 1
    proxy.servers.append(Server(line.words[1], line.at, settings, line.words[skip - 1], slots))


def _default_server(proxy: Proxy, line: Line) -> None:
    proxy.default_server_lines.add(line.at)
    _apply(proxy.default_server, line.words[1:], line.at)


def _apply(settings: Settings, words: tuple[str, ...], at: Place) -> None:
    """The keywords of one server line, over what is already in force."""
    position = 0
    while position < len(words):
        keyword = words[position]
        value = words[position + 1] if keyword in _WITH_VALUE and position + 1 < len(words) else ""
        position += 2 if keyword in _WITH_VALUE else 1
        if keyword in _KEPT:
            setattr(settings, _KEPT[keyword], value)
        elif keyword in _FLAGS:
            name, truth = _FLAGS[keyword]
            setattr(settings, name, truth)
        if keyword in _PLACED:
            setattr(settings, _PLACED[keyword], at)
        match keyword:
            case "agent-check" if not settings.agent:
                settings.agent, settings.agent_at, settings.agent_refused = True, at, False
            case "no-agent-check":
                settings.agent, settings.agent_at, settings.agent_refused = False, None, True
            case "resolve-opts":
                settings.ignores_dns_weight = "ignore-weight" in value.split(",")


def _balance(proxy: Proxy, line: Line) -> None:
    # Without an argument it is the default algorithm again.
    proxy.balance = line.words[1] if len(line.words) > 1 else None
    proxy.balance_at = line.at


def _hash_type(proxy: Proxy, line: Line) -> None:
    proxy.hash_type = line.words[1] if len(line.words) > 1 else "map-based"


def _bind(proxy: Proxy, line: Line) -> None:
    proxy.binds += "".join(line.words[1:2]).split(",")
    proxy.binds_tls.add("ssl" in line.words[2:])


def _cookie(proxy: Proxy, line: Line) -> None:
    proxy.cookie_at = line.at


def _stick(proxy: Proxy, line: Line) -> None:
    # A rule that checks a weight itself is assumed to be intended.
    if line.words[1:2] in (("on",), ("match",)) and not any(word.startswith("srv_weight(") for word in line.words):
        proxy.stick_at = proxy.stick_at or line.at


def _ignore_persist(proxy: Proxy, line: Line) -> None:
    proxy.ignores_persistence = True


def _option(proxy: Proxy, line: Line) -> None:
    no = line.words[0] == "no"
    if line.words[no : 2 + no] == ("option", "allbackups"):
        proxy.all_backups = not no


def _default_backend(proxy: Proxy, line: Line) -> None:
    proxy.default_backend = line.words[1] if len(line.words) > 1 else None
    proxy.default_backend_at = line.at


def _state_from(proxy: Proxy, line: Line) -> None:
    proxy.state_from = line.words[1] if len(line.words) > 1 else "none"


def _enable(proxy: Proxy, line: Line) -> None:
    proxy.disabled = line.words[0] == "disabled"


def _acl(proxy: Proxy, line: Line) -> None:
    match line.words:
        case (_, name, _, *_):
            proxy.acls.setdefault(name, []).append(line.words[2:])


def _rule(proxy: Proxy, line: Line) -> None:
    # `http-request return ...` and the like are known by their second word, the others by their first.
    phase = line.words[0] if line.words[0] in ("http-request", "tcp-request") else ""
    words = line.words[1:] if phase else line.words
    if words[:1] == ("content",):
        words = words[1:]
    if not words:
        return
    start = next((i for i, word in enumerate(words) if word in ("if", "unless")), len(words))
    target = _status(words[1:start]) if words[0] == "return" else "".join(words[1:2])
    proxy.rules.append(Rule(words[0].partition("(")[0], target, words[start:], line.at, phase))


def _status(words: tuple[str, ...]) -> str:
    """What `http-request return` with these words answers; a header may well be called "status".

    An error file answers with the status in it, whatever the rule says. By custom it is in its name, too.
    """
    said = {}
    position = 0
    while position < len(words):
        said[words[position]] = "".join(words[position + 1 : position + 2])
        position += {"default-errorfiles": 1, "hdr": 3}.get(words[position], 2)
    custom = re.fullmatch(r"(?:.*/)?(\d{3})\b[^/]*", said.get("errorfile", ""))
    return custom[1] if custom else said.get("status", "200")


_PROXY_LINES = {
    "server": _server,
    "server-template": _server,
    "default-server": _default_server,
    "bind": _bind,
    "cookie": _cookie,
    "stick": _stick,
    "ignore-persist": _ignore_persist,
    "option": _option,
    "no": _option,
    "balance": _balance,
    "hash-type": _hash_type,
    "default_backend": _default_backend,
    "load-server-state-from-file": _state_from,
    "disabled": _enable,
    "enabled": _enable,
    "acl": _acl,
    "use_backend": _rule,
    "use-server": _rule,
    "redirect": _rule,
    "http-request": _rule,
    "tcp-request": _rule,
}
