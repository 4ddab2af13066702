"""Pure: one thing to fix or to know, where it is, and how it is worded: in sentences.

It must not judge.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from agent.config.words import printable

from .parse import Proxy, Server, Settings
from .read import Place, is_known

_MOST_NAMES = 3
_MOST_DIGITS = 9
# HAProxy's units of time, in milliseconds; without one they are milliseconds.
_UNITS_MS = {"": 1.0, "us": 0.001, "ms": 1.0, "s": 1e3, "m": 60e3, "h": 3600e3, "d": 86400e3}


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One thing to fix. A `note` is worth knowing but not an error. Each part is a sentence without its full stop."""

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
    return LintFinding(at.file, at.line, "finding", what, why, remedy)


def note(at: Place, what: str, why: str, remedy: str) -> LintFinding:
    """Something worth knowing."""
    return LintFinding(at.file, at.line, "note", what, why, remedy)


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
    """`Server a`, `Servers a, b, c and 56 more`."""
    listed = ", ".join(server.name for server in servers[:_MOST_NAMES])
    more = f" and {len(servers) - _MOST_NAMES} more" if len(servers) > _MOST_NAMES else ""
    return f"Server{'s' if len(servers) > 1 else ''} {listed}{more}"


def have(servers: list[Server]) -> str:
    """The verb that goes with :func:`names`."""
    return "have" if len(servers) > 1 else "has"


def capital(text: str) -> str:
    """The text as a sentence begins."""
    return text[:1].upper() + text[1:]


def number(word: str | None) -> int | None:
    """A number as C's atol reads it, None if a variable is unknown here."""
    if word is None or not is_known(word):
        return None
    digits = ""
    for char in word.strip():
        if not char.isascii() or not char.isdigit():
            break
        digits += char
    return int(digits[:_MOST_DIGITS] or 0)


def milliseconds(word: str | None) -> float | None:
    """A time as HAProxy writes it, None where it is none or a variable is not known here."""
    match = re.fullmatch(r"(\d{1,9})(|us|ms|s|m|h|d)", word or "", re.ASCII)
    return int(match[1]) * _UNITS_MS[match[2]] if match else None
