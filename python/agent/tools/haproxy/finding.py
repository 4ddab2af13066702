"""Pure: one thing to fix or to know: where it is, and its sentences. It must not judge."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from agent.config.words import printable

from .model import Proxy, Server, Settings
from .read import Place, is_known

_MOST_NAMES = 3
_MOST_DIGITS = 9
# HAProxy's time units, in milliseconds; a number without a unit is in milliseconds.
_UNITS_MS = {"": 1.0, "us": 0.001, "ms": 1.0, "s": 1e3, "m": 60e3, "h": 3600e3, "d": 86400e3}


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One thing to fix. A `note` is worth knowing but not an error. Each part is a sentence without its period."""

    file: str
    line: int
    severity: Literal["finding", "note"]
    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        head = "note: " if self.severity == "note" else ""
        return printable(f"{self.file}:{self.line}: {head}{self.what}. {self.why}. {self.remedy}.")


def finding(at: Place, what: str, why: str, remedy: str) -> LintFinding:
    """Something that makes the agent useless or dangerous."""
    return LintFinding(at.file, at.line, "finding", _capitalized(what), why, remedy)


def note(at: Place, what: str, why: str, remedy: str) -> LintFinding:
    """Something worth knowing."""
    return LintFinding(at.file, at.line, "note", _capitalized(what), why, remedy)


def by_place(
    backend: Proxy, servers: list[Server], origin: Callable[[Settings], Place | None]
) -> Iterator[tuple[Place, list[Server]]]:
    """Servers grouped by the line to fix: their own, the backend's default-server, or the backend's first line for
    what comes from `defaults`. So one wrong line is one finding, however many servers it affects."""
    places: dict[Place, list[Server]] = {}
    for server in servers:
        at = origin(server.settings) or server.at
        if at != server.at and at not in backend.default_server_lines:
            at = backend.at
        places.setdefault(at, []).append(server)
    yield from places.items()


def names(servers: list[Server]) -> str:
    """`server a`, `servers a, b, c and 56 more`."""
    listed = ", ".join(server.name for server in servers[:_MOST_NAMES])
    more = f" and {len(servers) - _MOST_NAMES} more" if len(servers) > _MOST_NAMES else ""
    return f"server{'s' if len(servers) > 1 else ''} {listed}{more}"


def have(backend: Proxy, servers: list[Server]) -> str:
    """`servers a, b in backend web have`, for what follows."""
    return f"{names(servers)} in {backend.title} {'have' if len(servers) > 1 else 'has'}"


def _capitalized(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def number(word: str | None) -> int | None:
    """A number as C's atol reads it; None if it contains a variable that is not set here."""
    if word is None or not is_known(word):
        return None
    digits = ""
    for char in word.strip():
        if not char.isascii() or not char.isdigit():
            break
        digits += char
    return int(digits[:_MOST_DIGITS] or 0)


def milliseconds(word: str | None) -> float | None:
    """A time in HAProxy's format; None if it is invalid or contains a variable that is not set here."""
    match = re.fullmatch(r"(\d{1,9})(|us|ms|s|m|h|d)", word or "", re.ASCII)
    return int(match[1]) * _UNITS_MS[match[2]] if match else None
