"""Lines of words -> the proxies that HAProxy would build from them, with everything that affects agent checks.

It applies what is inherited (from `defaults`, named ones too, and from the `default-server` above a line) and drops
the rest. It judges nothing and never refuses a keyword: `haproxy -c` checks whether a file is valid.

Rules from HAProxy's configuration.txt and src/cfgparse-listen.c; those of server lines are in `server_line`.
"""

import copy
import re
from collections.abc import Sequence
from pathlib import Path

from .model import Configuration, Proxy, Rule
from .read import SECTIONS, Line, LintError, World, lines_of, read_text
from .server_line import default_server, server

_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
PROXIES = frozenset(("frontend", "backend", "listen", "defaults"))


def parse(files: Sequence[tuple[Path, str]], world: World) -> Configuration:
    """Files in HAProxy's order (the `defaults` of one apply to the next) -> one Configuration."""
    reader = _Parser(world)
    for path, text in files:
        for line in lines_of(path, text, world):
            reader.take(line)
    return reader.configuration


def read_files(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Every file with its text, read once for any number of parses."""
    return [(path, read_text(path)) for path in paths]


class _Parser:
    """Takes one line after another; keeps the current section and the `defaults` in force."""

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
            why = f"{self._section} needs a name, not {name!r}, so this is not an HAProxy configuration"
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
    """A line that does not affect agent checks."""


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
    # The kind of `http-request return ...` and the like is the second word, that of the others the first.
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
    """The status of `http-request return` with these words; a header may well be called "status".

    An error file has its own status, whatever the rule says; by convention its name begins with it.
    """
    said = {}
    position = 0
    while position < len(words):
        said[words[position]] = "".join(words[position + 1 : position + 2])
        position += {"default-errorfiles": 1, "hdr": 3}.get(words[position], 2)
    custom = re.fullmatch(r"(?:.*/)?(\d{3})\b[^/]*", said.get("errorfile", ""))
    return custom[1] if custom else said.get("status", "200")


_PROXY_LINES = {
    "server": server,
    "server-template": server,
    "default-server": default_server,
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
