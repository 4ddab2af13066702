"""Pure: the conditions of rules, `if`/`unless` and what follows, and the integer patterns in them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda value, wanted: value == wanted,
    "ge": lambda value, wanted: value >= wanted,
    "gt": lambda value, wanted: value > wanted,
    "le": lambda value, wanted: value <= wanted,
    "lt": lambda value, wanted: value < wanted,
}
# Seventeen digits are more than any count of servers has.
_RANGE = re.compile(r"(?P<low>-?\d{1,17})?(?P<colon>:)?(?P<high>-?\d{1,17})?")
# More than any count that HAProxy gives.
MANY = 10**18


@dataclass(frozen=True, slots=True)
class Term:
    """One ACL name, or the words between braces, negated or not."""

    words: tuple[str, ...]
    negated: bool
    named: bool


@dataclass(frozen=True, slots=True)
class Condition:
    """Alternatives, each consisting of terms that must all hold; negated as a whole after `unless`."""

    alternatives: tuple[tuple[Term, ...], ...]
    unless: bool = False


@cache
def condition(words: tuple[str, ...]) -> Condition:
    """`if`/`unless` and what follows; nothing always holds."""
    if not words:
        return Condition(((),))
    alternatives: list[list[Term]] = [[]]
    negated = False
    position = 1
    while position < len(words):
        word = words[position]
        position += 1
        if word in ("or", "||"):
            alternatives.append([])
            continue
        if word in ("and", "&&"):
            continue
        while word.startswith("!"):
            negated = not negated
            word = word[1:]
        if not word:
            continue
        inner: tuple[str, ...] = (word,)
        if word == "{":
            end = words.index("}", position) if "}" in words[position:] else len(words)
            inner = words[position:end]
            position = end + 1
        alternatives[-1].append(Term(inner, negated, named=word != "{"))
        negated = False
    return Condition(tuple(tuple(terms) for terms in alternatives if terms), words[0] == "unless")


def matches(patterns: list[str], value: int) -> bool | None:
    """Whether the value matches integer patterns: `eq 0`, `lt 1`, `0`, `0:2`, several being alternatives."""
    if patterns[:1] == ["-m"]:
        if patterns[1:2] not in (["int"], ["bool"]):
            return None
        patterns = patterns[2:]
    if patterns[:1] == ["--"]:
        patterns = patterns[1:]
    if not patterns:
        return value != 0
    compare = _COMPARE["eq"]
    for pattern in patterns:
        if pattern in _COMPARE:
            compare = _COMPARE[pattern]
            continue
        match = _RANGE.fullmatch(pattern)
        if not match or not (match["low"] or match["high"]):
            return None
        if match["colon"]:
            if int(match["low"] or -MANY) <= value <= int(match["high"] or MANY):
                return True
        elif compare(value, int(match["low"])):
            return True
    return False
