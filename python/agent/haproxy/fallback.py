"""Pure: where do clients go when a backend has no server left?

A host that is full answers 0 %, and a server of weight 0 is out of the pool. Once every server of a backend
is out, HAProxy answers 503, unless a rule that looks at `nbsrv` has sent the request elsewhere first. This
module finds the way into a backend that no such rule guards. It must not count a rule it does not understand
as a guard, except where it cannot see how requests reach the backend at all.

Measured on HAProxy 2.6: `nbsrv` does not count servers of weight 0; `srv_is_up` does, and so is no cure;
`use-server` reaches a server of weight 0.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from .parse import Configuration, Proxy, Rule
from .read import Place

_ANSWERS = frozenset(("redirect", "return", "use-service"))
# A variable or header may choose the backend in a `use_backend %[...]`.
_CHOICES = frozenset(("set-var", "set-var-fmt", "set-header"))
_COMPARE: dict[str, Callable[[int], bool]] = {
    "eq": lambda wanted: wanted == 0,
    "ge": lambda wanted: wanted <= 0,
    "gt": lambda wanted: wanted < 0,
    "le": lambda wanted: wanted >= 0,
    "lt": lambda wanted: wanted > 0,
}
_RANGE = re.compile(r"(?P<low>-?\d*)(?P<colon>:?)(?P<high>-?\d*)")
# A condition that De Morgan's rule would blow up is left unread; no operator writes one.
_MOST_TERMS = 64


@dataclass(frozen=True, slots=True)
class _Term:
    """One ACL name, or the words between braces, negated or not."""

    words: tuple[str, ...]
    negated: bool
    named: bool


# A condition as alternatives, each of terms that must all hold. `[()]` always holds, `[]` never.
_Condition = list[tuple[_Term, ...]]


def unguarded_way(configuration: Configuration, backend: Proxy) -> Place | None:
    """The line that sends clients to `backend` with nothing to catch them once it has no server left.

    None if they are caught everywhere. The line of the backend itself where no line leads to it that can be
    seen (a map, a file not given) and nothing anywhere looks at how many servers it has left.
    """
    own = [rule for rule in backend.rules if rule.kind == "use-server" or rule.kind in _ANSWERS]
    if any(_catches(rule, backend, backend, frozenset()) for rule in own):
        return None
    ways = 0
    for frontend in configuration.frontends():
        for at, terms, earlier in _ways(frontend, backend):
            ways += 1
            if any(_at_zero(term, frontend, backend) is False for term in terms):
                continue
            if not any(_catches(rule, frontend, backend, terms) for rule in earlier):
                return at
    if ways or any(_looks_at(frontend, backend) for frontend in configuration.frontends()):
        return None
    return backend.at


def _ways(frontend: Proxy, backend: Proxy) -> Iterator[tuple[Place, frozenset[_Term], list[Rule]]]:
    """Lines of `frontend` that lead to `backend`, with what holds there and the rules that went before."""
    switching = [rule for rule in frontend.rules if rule.kind == "use_backend"]
    dynamic = any("%[" in rule.target for rule in switching)
    # These come before all switching, wherever they are written.
    earlier = [rule for rule in frontend.rules if rule.kind in _ANSWERS or (dynamic and rule.kind in _CHOICES)]
    holds: frozenset[_Term] = frozenset()
    for rule in switching:
        condition = _condition(rule.words)
        if rule.target == backend.name:
            for terms in condition:
                yield rule.at, holds | frozenset(terms), list(earlier)
        else:
            earlier.append(rule)
        # Below this line none of the terms that would have sent the request away by itself holds.
        holds |= {replace(t[0], negated=not t[0].negated) for t in condition if len(t) == 1}
    if frontend.default_backend == backend.name:
        yield frontend.default_backend_at or frontend.at, holds, earlier
    elif frontend is backend and not frontend.default_backend:
        yield frontend.at, holds, earlier


def _catches(rule: Rule, proxy: Proxy, backend: Proxy, holds: frozenset[_Term]) -> bool:
    """Whether the rule surely applies where `holds` holds and the backend has no server left."""
    return any(
        all(term in holds or _at_zero(term, proxy, backend) for term in terms) for terms in _condition(rule.words)
    )


def _looks_at(frontend: Proxy, backend: Proxy) -> bool:
    """Whether any rule applies, among other terms, when the backend has no server left."""
    return any(
        True in values and False not in values
        for rule in frontend.rules
        if (rule.kind == "use_backend" and rule.target != backend.name) or rule.kind in _ANSWERS | _CHOICES
        for terms in _condition(rule.words)
        if (values := [_at_zero(term, frontend, backend) for term in terms])
    )


def _condition(words: tuple[str, ...]) -> _Condition:
    """`if`/`unless` and what follows -> alternatives of terms."""
    if not words:
        return [()]
    alternatives: list[list[_Term]] = [[]]
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
        alternatives[-1].append(_Term(inner, negated, named=word != "{"))
        negated = False
    condition = [tuple(terms) for terms in alternatives if terms]
    return _negation(condition) if words[0] == "unless" else condition


def _negation(condition: _Condition) -> _Condition:
    size = 1
    for terms in condition:
        size *= len(terms)
    if size > _MOST_TERMS:
        return []
    return [tuple(replace(term, negated=not term.negated) for term in chosen) for chosen in product(*condition)]


def _at_zero(term: _Term, proxy: Proxy, backend: Proxy) -> bool | None:
    """What the term says when `backend` has no server left; None if it speaks of something else."""
    if term.named:
        builtin = {"TRUE": True, "FALSE": False}.get(term.words[0])
        values = [_expression_at_zero(words, proxy, backend) for words in proxy.acls.get(term.words[0], [])]
        # Lines of one name are alternatives.
        value = True if True in values else None if None in values or not values else False
        value = builtin if builtin is not None and not values else value
    else:
        value = _expression_at_zero(term.words, proxy, backend)
    return value if value is None else value != term.negated


def _expression_at_zero(words: tuple[str, ...], proxy: Proxy, backend: Proxy) -> bool | None:
    if words[:1] in (("always_true",), ("always_false",)):
        return words[0] == "always_true"
    own = proxy is backend and words[:1] in (("nbsrv",), ("nbsrv()",))
    if not own and words[:1] != (f"nbsrv({backend.name})",):
        return None
    rest = list(words[1:])
    if rest[:1] == ["-m"]:
        if rest[1:2] not in (["int"], ["bool"]):
            return None
        del rest[:2]
    if rest[:1] == ["--"]:
        del rest[0]
    if not rest:
        return False
    return _matches_zero(rest)


def _matches_zero(patterns: list[str]) -> bool | None:
    """Whether 0 matches integer patterns: `eq 0`, `lt 1`, `0`, `0:2`, several being alternatives."""
    compare = _COMPARE["eq"]
    for pattern in patterns:
        if pattern in _COMPARE:
            compare = _COMPARE[pattern]
            continue
        match = _RANGE.fullmatch(pattern)
        if not match or not (match["low"] or match["high"]):
            return None
        if match["colon"]:
            if int(match["low"] or 0) <= 0 <= int(match["high"] or 0):
                return True
            if not match["high"] and int(match["low"] or 0) <= 0:
                return True
        elif compare(int(match["low"])):
            return True
    return False
