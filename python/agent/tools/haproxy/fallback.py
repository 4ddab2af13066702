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
from functools import cache
from itertools import product

from .parse import Configuration, Proxy, Rule
from .read import Place

_ANSWERS = frozenset(("redirect", "return", "use-service"))
_REFUSALS = frozenset(("deny", "reject", "silent-drop", "tarpit"))
# A variable or header may choose the backend in a `use_backend %[...]`.
_CHOICES = frozenset(("set-var", "set-var-fmt", "set-header"))
_COMPARE: dict[str, Callable[[int], bool]] = {
    "eq": lambda wanted: wanted == 0,
    "ge": lambda wanted: wanted <= 0,
    "gt": lambda wanted: wanted < 0,
    "le": lambda wanted: wanted >= 0,
    "lt": lambda wanted: wanted > 0,
}
# Seventeen digits are more than any count of servers has.
_RANGE = re.compile(r"(?P<low>-?\d{1,17})?(?P<colon>:)?(?P<high>-?\d{1,17})?")
# A condition that De Morgan's rule would blow up is left unread; no operator writes one.
_MOST_TERMS = 64


@dataclass(frozen=True, slots=True)
class _Term:
    """One ACL name, or the words between braces, negated or not."""

    words: tuple[str, ...]
    negated: bool
    named: bool


# A condition as alternatives, each of terms that must all hold. `((),)` always holds, `()` never.
_Condition = tuple[tuple[_Term, ...], ...]


@dataclass(frozen=True, slots=True)
class Way:
    """The line that leads into a backend, and the one before it that refuses clients once no server is left."""

    at: Place
    refusal: Place | None = None


def unguarded_way(configuration: Configuration, backend: Proxy) -> Way | None:
    """The way that sends clients to `backend` with nothing to catch them once it has no server left.

    None if they are caught everywhere. The line of the backend itself where no line leads to it that can be
    seen (a map, a file not given) and nothing anywhere looks at how many servers it has left.
    """
    own = [rule for rule in backend.rules if rule.kind == "use-server" or _answers(rule)]
    if any(_catches(rule, backend, backend, frozenset()) for rule in own):
        return None
    ways = 0
    for frontend in configuration.frontends():
        if not _leads_to(frontend, backend):
            continue
        ending = _ending(frontend)
        for at, terms, earlier in _ways(frontend, backend):
            ways += 1
            # These come before all switching, so nothing else catches what they refuse.
            end = next((rule for rule in ending if _catches(rule, frontend, backend, terms)), None)
            if end and not _answers(end):
                return Way(at, end.at)
            if any(_at_zero(term, frontend, backend.name) is False for term in terms):
                continue
            # The rule that catches is mostly the one just above.
            if not any(_catches(rule, frontend, backend, terms) for rule in reversed(earlier)):
                return Way(at)
    if ways or any(_looks_at(frontend, backend) for frontend in configuration.frontends()):
        return None
    return Way(backend.at)


def _answers(rule: Rule) -> bool:
    """Whether the client gets an answer of use."""
    return rule.kind in _ANSWERS and not _fails(rule)


def _fails(rule: Rule) -> bool:
    """A `return` of 5xx is the very failure that it was to prevent, in other words."""
    return rule.kind == "return" and rule.target.startswith("5")


def _refuses(rule: Rule, proxy: Proxy) -> bool:
    """Whether the rule turns clients away by how many servers are left. What else it may heed is not for here."""
    if rule.kind not in _REFUSALS and not _fails(rule):
        return False
    terms = [term for alternative in _condition(rule.words) for term in alternative]
    named = [words for term in terms if term.named for words in proxy.acls.get(term.words[0], [])]
    unnamed = [term.words for term in terms if not term.named]
    return any(words[0].startswith("nbsrv") for words in named + unnamed if words)


def _ending(proxy: Proxy) -> list[Rule]:
    """Rules that end a request before all switching, in HAProxy's order: a phase's are in the file's. None at all
    where none refuses, for then what answers is no different from what comes later."""
    if not any(_refuses(rule, proxy) for rule in proxy.rules):
        return []
    ending = [rule for rule in proxy.rules if _refuses(rule, proxy) or (rule.phase and _answers(rule))]
    return sorted(ending, key=lambda rule: rule.phase == "http-request")


def _leads_to(frontend: Proxy, backend: Proxy) -> bool:
    names = (rule.target for rule in frontend.rules if rule.kind == "use_backend")
    return frontend is backend or frontend.default_backend == backend.name or backend.name in names


def _ways(frontend: Proxy, backend: Proxy) -> Iterator[tuple[Place, frozenset[_Term], list[Rule]]]:
    """Lines of `frontend` that lead to `backend`, with what holds there and the rules that went before."""
    switching = [rule for rule in frontend.rules if rule.kind == "use_backend"]
    dynamic = any("%[" in rule.target for rule in switching)
    # These come before all switching, wherever they are written.
    earlier = [rule for rule in frontend.rules if _answers(rule) or (dynamic and rule.kind in _CHOICES)]
    holds: set[_Term] = set()
    for rule in switching:
        if rule.target == backend.name:
            for terms in _condition(rule.words):
                yield rule.at, frozenset(holds.union(terms)), earlier
        else:
            earlier.append(rule)
        holds |= _after(rule.words)
    if frontend.default_backend == backend.name:
        yield frontend.default_backend_at or frontend.at, frozenset(holds), earlier
    elif frontend is backend and not frontend.default_backend:
        yield frontend.at, frozenset(holds), earlier


def _catches(rule: Rule, proxy: Proxy, backend: Proxy, holds: frozenset[_Term]) -> bool:
    """Whether the rule surely applies where `holds` holds and the backend has no server left.

    That the rule's own target must have servers is no restriction: without them nothing is won there.
    """

    def applies(term: _Term) -> bool:
        if term in holds or _at_zero(term, proxy, backend.name):
            return True
        return rule.target != backend.name and _at_zero(term, proxy, rule.target) is False

    return any(all(map(applies, terms)) for terms in _condition(rule.words))


def _looks_at(frontend: Proxy, backend: Proxy) -> bool:
    """Whether any rule applies, among other terms, when the backend has no server left."""
    return any(
        True in values and False not in values
        for rule in frontend.rules
        if (rule.kind == "use_backend" and rule.target != backend.name) or _answers(rule) or rule.kind in _CHOICES
        for terms in _condition(rule.words)
        if (values := [_at_zero(term, frontend, backend.name) for term in terms])
    )


@cache
def _condition(words: tuple[str, ...]) -> _Condition:
    """`if`/`unless` and what follows -> alternatives of terms."""
    if not words:
        return ((),)
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
    condition = tuple(tuple(terms) for terms in alternatives if terms)
    return _negation(condition) if words[0] == "unless" else condition


def _negation(condition: _Condition) -> _Condition:
    size = 1
    for terms in condition:
        size *= len(terms)
    if size > _MOST_TERMS:
        return ()
    return tuple(tuple(map(_opposite, chosen)) for chosen in product(*condition))


@cache
def _after(words: tuple[str, ...]) -> frozenset[_Term]:
    """What holds where a rule of this condition did not apply: no term that alone would have been enough."""
    return frozenset(_opposite(terms[0]) for terms in _condition(words) if len(terms) == 1)


def _opposite(term: _Term) -> _Term:
    return replace(term, negated=not term.negated)


def _at_zero(term: _Term, proxy: Proxy, backend: str) -> bool | None:
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


def _expression_at_zero(words: tuple[str, ...], proxy: Proxy, backend: str) -> bool | None:
    if words in (("always_true",), ("always_false",)):
        return words[0] == "always_true"
    # A frontend that only speaks plain HTTP and redirects what is not TLS leads nowhere else.
    if words == ("ssl_fc",) and len(proxy.binds_tls) == 1:
        return True in proxy.binds_tls
    own = proxy.kind != "frontend" and proxy.name == backend and words[:1] in (("nbsrv",), ("nbsrv()",))
    counts = ("nbsrv", "be_conn_free")
    if not own and words[:1] not in [(f"{count}({backend})",) for count in counts]:
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
        elif compare(int(match["low"])):
            return True
    return False
