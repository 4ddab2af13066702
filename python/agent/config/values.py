"""PURE. How operators write durations, shares and addresses.

The configuration and the command line both use it, so that they accept the same values and refuse others with the
same message.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class Wrong(ValueError):  # noqa: N818 - it is a value that is wrong, reported among others
    """A value that is not allowed. Its text says what is allowed."""


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """One kind of value: how it is read, how it is shown, and what is allowed."""

    allowed: str
    parse: Callable[[object], T]
    show: Callable[[T], object]

    def __call__(self, found: object) -> T:
        try:
            return self.parse(found)
        except (ValueError, TypeError, OverflowError) as error:
            raise Wrong(str(error) if isinstance(error, Wrong) else self.allowed) from None


_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,3})?)(ms|s|m|h|d)", re.ASCII)
_DURATION_MAX_S = 365 * 86400.0  # longer than anybody needs, and within what timers support
_UID_MAX = 2**32 - 2  # the kernel's limit; the number above it means "no user"
_PERCENT = re.compile(r"(\d{1,4}(?:\.\d{1,3})?)%", re.ASCII)


def _text(found: object) -> str:
    if not isinstance(found, str) or "\0" in found:
        raise TypeError
    return found


def _duration_s(found: object) -> float:
    match = _DURATION.fullmatch(_text(found))
    # Rounded, so that the same time is the same number in whatever unit it is written.
    seconds = round(float(match[1]) * _UNITS_S[match[2]], 6) if match else None
    if seconds is None or seconds > _DURATION_MAX_S:
        raise ValueError
    return seconds


def show_duration(seconds: float) -> str:
    """``0.5`` -> ``500ms``: the largest unit that shows it without a fraction."""
    us = round(seconds * 1_000_000)
    for unit in ("d", "h", "m", "s"):
        size = round(_UNITS_S[unit] * 1_000_000)
        if us and us % size == 0:
            return f"{us // size}{unit}"
    ms, rest = divmod(us, 1000)
    return f"{ms}.{rest:03}".rstrip("0") + "ms" if rest else f"{ms}ms"


def _percent(found: object, low: float, high: float) -> float:
    match = _PERCENT.fullmatch(_text(found))
    if not match or not low <= float(match[1]) <= high:
        raise ValueError
    return float(match[1])


def _show_percent(percent: float) -> str:
    return f"{percent:g}%"


def _address(found: object) -> tuple[str, int]:
    host, _, port = _text(found).rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    else:
        host = str(ipaddress.IPv4Address(host))
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535:
        raise ValueError
    return host, int(port)


def show_address(address: tuple[str, int]) -> str:
    """``("::1", 5001)`` -> ``[::1]:5001``."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _network(found: object) -> str:
    # Python would keep an interface name, or drop it before a prefix length: then more addresses than intended could
    # poll.
    if "%" in _text(found):
        raise Wrong('a network without an interface name, such as "fe80::/10"')
    return str(ipaddress.ip_network(_text(found), strict=False))


def _user(found: object) -> str | int:
    if isinstance(found, str) and found.isascii() and found.isdigit():
        found = int(found)
    if isinstance(found, int) and not isinstance(found, bool):
        return _integer(0, _UID_MAX)(found)
    if not found:
        raise ValueError
    return _text(found)


def _rise(found: object) -> float | None:
    if found == "off":
        return None
    per_second = _text(found)
    if not per_second.endswith("/s"):
        raise ValueError
    return _percent(per_second.removesuffix("/s"), 0.001, 100)


def _capacity(found: object) -> str | float:
    if found in ("cores", "quota", "slots"):
        return str(found)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found <= 1_000_000:
        raise ValueError
    return found


def _integer(low: int, high: int) -> Callable[[object], int]:
    def parse(found: object) -> int:
        if isinstance(found, bool) or not isinstance(found, int) or not low <= found <= high:
            raise ValueError
        return found

    return parse


def _whole_percent(found: object) -> int:
    percent = _percent(found, 0, 100)
    if not percent.is_integer():
        raise ValueError
    return int(percent)


def _plain_percent(found: object) -> int:
    # On the command line the % may be left out: it cannot mean anything else.
    return _whole_percent(found if _text(found).endswith("%") else f"{found}%")


LASTING_MAX_S = 365 * 86400.0


def _lasting_s(found: object) -> float:
    seconds = _duration_s(found)
    if not 1 <= seconds <= LASTING_MAX_S:
        raise ValueError
    return seconds


REASON_LEN_MAX = 200


def _reason(found: object) -> str:
    line = _text(found).strip()
    if len(line) > REASON_LEN_MAX or not line.isprintable():
        raise ValueError
    return line


def _same(value: object) -> object:
    return value


def one_of(*words: str) -> Kind[str]:
    """One of these words."""

    def parse(found: object) -> str:
        if found not in words:
            raise ValueError
        return str(found)

    return Kind(" | ".join(f'"{w}"' for w in words), parse, _same)


def integer(low: int, high: int) -> Kind[int]:
    """A whole number in this range."""
    return Kind(f"a whole number from {low} to {high}", _integer(low, high), _same)


def list_of(item: Kind[T]) -> Kind[tuple[T, ...]]:
    """A list of one kind; the first wrong item is named."""

    def parse(found: object) -> tuple[T, ...]:
        if not isinstance(found, list):
            raise TypeError
        items = []
        for i, value in enumerate(found):
            try:
                items.append(item(value))
            except Wrong as wrong:
                raise Wrong(f"item {i + 1} ({value!r}) must be {wrong}") from None
        return tuple(items)

    return Kind(f"a list; each item {item.allowed}", parse, lambda items: [item.show(i) for i in items])


text = Kind("a string", _text, _same)
duration = Kind('a duration such as "500ms", "2s", "30m", "1h", up to "365d"', _duration_s, show_duration)
share = Kind('a share of one core from "0.1%" to "100%"', lambda f: _percent(f, 0.1, 100), _show_percent)
weight = Kind('a whole percentage from "0%" to "100%"', _whole_percent, _show_percent)
plain_percent = Kind('a whole percentage from "0%" to "100%", with or without the sign', _plain_percent, _show_percent)
lasting = Kind('a duration from "1s" to "365d", such as "30m"', _lasting_s, show_duration)
reason = Kind(f"one line of at most {REASON_LEN_MAX} printable characters", _reason, _same)
rise = Kind('"off" or a rate such as "5%/s"', _rise, lambda r: "off" if r is None else f"{r:g}%/s")
unknown = Kind(
    '"hold" or a whole percentage such as "50%"',
    lambda f: None if f == "hold" else _whole_percent(f),
    lambda p: "hold" if p is None else _show_percent(p),
)
capacity = Kind('"cores", "quota", "slots" or a number above 0', _capacity, _same)
address = Kind('an address such as "127.0.0.1:5001" or "[::]:5001"', _address, show_address)
optional_address = Kind(
    'empty, or an address such as "127.0.0.1:9105"',
    lambda f: None if f == "" else _address(f),
    lambda a: "" if a is None else show_address(a),
)
network = Kind('a network such as "10.0.0.0/8" or "2001:db8::1"', _network, _same)
user = Kind("a user's name or number", _user, _same)
