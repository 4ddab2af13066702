"""Pure: where do the requests for a backend go when it has no server left, or when all its servers are at maxconn?

A full host replies 0 %, and a server of weight 0 is out of the pool. Once every server is out, HAProxy answers 503,
unless a rule that checks how many are left has sent the request elsewhere first. And a spike that exceeds the
capacity of those in the pool overloads them, unless a rule that checks their free slots does the same.

Requests are run through a frontend's rules, with every combination of the conditions on which a rule about the
backend's state depends. A rule that is not understood must not count as one that applies, unless nothing is
known about how requests reach the backend.

Measured on HAProxy 2.6: neither `nbsrv` nor `be_conn_free` counts servers of weight 0; `srv_is_up` does, so it
does not help; `be_conn_free` is -1 if a server of the pool has no maxconn; `use-server` reaches a server of weight 0.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import product

from .conditions import MANY, Condition, Term, condition, matches
from .model import Configuration, Proxy, Rule
from .read import Place

_ANSWERS = frozenset(("redirect", "return", "use-service"))
_REFUSALS = frozenset(("deny", "reject", "silent-drop", "tarpit"))
# A variable or header may choose the backend in a `use_backend %[...]`.
_CHOICES = frozenset(("set-var", "set-var-fmt", "set-header"))
_PHASES = ("tcp-request", "http-request", "")
_FETCH = re.compile(r"(?P<name>\w+)(?:\((?P<of>[^()/]*)(?:/[^()]*)?\))?(?P<converters>,.*)?")
_LEFT = ("nbsrv", "be_conn_free")
_LOAD = ("be_conn", "queue", "avg_queue", "srv_conn", "srv_queue", "be_sess_rate", "srv_sess_rate")
# If more conditions matter to one way, the last ones stay unknown; no operator writes so many.
_MOST_UNKNOWN = 10


class State(Enum):
    """The state of a backend: no server left in the pool, or none with a free slot."""

    EMPTY = 1
    BUSY = 2


@dataclass(frozen=True, slots=True)
class Way:
    """The line that routes to a backend, and the one before it that refuses clients once no server is left."""

    at: Place
    refusal: Place | None = None


# The assumed truth of unknown conditions, by their words.
_Assumed = Mapping[tuple[str, ...], bool]


def open_way(configuration: Configuration, backend: Proxy, state: State) -> Way | None:
    """A route by which clients reach `backend` in that state because no rule diverts them; None if there is none.

    It is the backend's own line if no visible line routes to it (a map, a file not given) and no rule anywhere checks
    its state.
    """
    own = [rule for rule in backend.rules if rule.kind == "use-server" or _answers(rule)]
    within = _View(backend, backend, state)
    if state is State.EMPTY and any(within.applies(rule, {}) for rule in own):
        return None
    seen = False
    for frontend in configuration.frontends():
        if not _leads_to(frontend, backend):
            continue
        view = _View(frontend, backend, state)
        for at, when, earlier in _ways(frontend, backend):
            seen = True
            if way := view.open(at, when, earlier):
                return way
    if seen or any(_View(frontend, backend, state).is_looked_at() for frontend in configuration.frontends()):
        return None
    return Way(backend.at)


def spills(configuration: Configuration, backend: Proxy) -> Iterator[tuple[Proxy, Rule]]:
    """The rules that send requests elsewhere because of the backend's state, each with its frontend."""
    for frontend in configuration.frontends():
        views = [_View(frontend, backend, state) for state in State]
        for rule in frontend.rules:
            if rule.kind == "use_backend" and rule.target != backend.name and any(v.looks(rule) for v in views):
                yield frontend, rule


def leading(configuration: Configuration, backend: str) -> list[Proxy]:
    """The frontends with a line that routes to the backend of that name."""
    return [
        frontend
        for frontend in configuration.frontends()
        if backend in (frontend.default_backend, frontend.name * (frontend.kind == "listen"))
        or any(rule.target == backend for rule in _switching(frontend))
    ]


def words_of(rule: Rule, proxy: Proxy) -> Iterator[tuple[str, ...]]:
    """The expressions in a rule's condition, including those behind the names of ACLs."""
    for terms in condition(rule.words).alternatives:
        for term in terms:
            yield from proxy.acls.get(term.words[0], []) if term.named else [term.words]


@dataclass(frozen=True, slots=True)
class _View:
    """One proxy's rules, evaluated in one state of the backend."""

    proxy: Proxy
    backend: Proxy
    state: State

    def open(self, at: Place, when: Condition, earlier: list[Rule]) -> Way | None:
        """Whether requests can get past this line, whatever the other conditions are."""
        looking = [rule for rule in earlier if self.looks(rule)]
        for alternative in [()] if when.unless else when.alternatives:
            known = {term.words: not term.negated for term in alternative if self._truth_of(term, "") is None}
            terms = [term for rule in looking for some in condition(rule.words).alternatives for term in some]
            if when.unless:
                terms += [term for some in when.alternatives for term in some]
            unknown = dict.fromkeys(t.words for t in terms if self._truth_of(t, "") is None and t.words not in known)
            names = list(unknown)[:_MOST_UNKNOWN]
            for truths in product((True, False), repeat=len(names)):
                assumed = {**known, **dict(zip(names, truths, strict=True))}
                if self._truth(when, assumed, self.backend.name) is False:
                    continue
                rule = next((rule for rule in earlier if self.applies(rule, assumed)), None)
                if rule is None:
                    return Way(at)
                # If some are refused and others are not, that is probably intended.
                if self.state is State.EMPTY and _refuses(rule) and self.applies(rule, known):
                    return Way(at, rule.at)
        return None

    def is_looked_at(self) -> bool:
        """Whether any rule certainly applies because of the state."""
        return any(
            self.looks(rule) and self._truth(condition(rule.words), {}, rule.target) is not False
            for rule in self.proxy.rules
            if (rule.kind == "use_backend" and rule.target != self.backend.name)
            or _answers(rule)
            or rule.kind in _CHOICES
        )

    def looks(self, rule: Rule) -> bool:
        """Whether the rule depends on the state."""
        return any(
            self._value(words, "") is not None or (self.state is State.BUSY and words[:1] and words[0][:4] == "var(")
            for words in words_of(rule, self.proxy)
        )

    def applies(self, rule: Rule, assumed: _Assumed) -> bool:
        """Whether the rule certainly applies. Rules that end a request for other reasons are not handled here."""
        mine = self.looks(rule) or not _refuses(rule)
        return mine and self._truth(condition(rule.words), assumed, rule.target) is True

    def _truth(self, when: Condition, assumed: _Assumed, target: str) -> bool | None:
        alternatives = [_all([self._truth_of(term, target, assumed) for term in terms]) for terms in when.alternatives]
        found = _any(alternatives)
        return found if found is None else found != when.unless

    def _truth_of(self, term: Term, target: str, assumed: _Assumed | None = None) -> bool | None:
        """The truth of the term; None if it is unknown."""
        expressions = self.proxy.acls.get(term.words[0], []) if term.named else [term.words]
        found = _any([self._says(words, target) for words in expressions]) if expressions else None
        if term.named and not expressions:
            found = {"TRUE": True, "FALSE": False}.get(term.words[0])
        if found is None:
            found = (assumed or {}).get(term.words)
        return found if found is None else found != term.negated

    def _says(self, words: tuple[str, ...], target: str) -> bool | None:
        if words in (("always_true",), ("always_false",)):
            return words[0] == "always_true"
        # A plain HTTP frontend that redirects everything that is not TLS routes nowhere else.
        if words == ("ssl_fc",) and len(self.proxy.binds_tls) == 1:
            return True in self.proxy.binds_tls
        # A variable is not traced to its source: it is assumed to be as intended.
        if self.state is State.BUSY and words[:1] and words[0].startswith("var("):
            return True
        value = self._value(words, target)
        return None if value is None else matches(list(words[1:]), value)

    def _value(self, words: tuple[str, ...], target: str) -> int | None:
        """The number that a fetch returns for the backend in this state, or for the rule's own target, which is
        healthy."""
        match = _FETCH.fullmatch(words[0]) if words else None
        if not match:
            return None
        name, of = match["name"], match["of"] or ("" if self.proxy.kind == "frontend" else self.proxy.name)
        if of != self.backend.name:
            return MANY if of == target and name in _LEFT and not match["converters"] else None
        if name in _LEFT and not match["converters"]:
            if self.state is State.EMPTY:
                return 0
            return MANY if name == "nbsrv" else 0 if has_maxconn(self.backend) else -1
        return MANY if self.state is State.BUSY and name in _LOAD else None


def has_maxconn(backend: Proxy) -> bool:
    """Whether every server that may get requests has a maxconn; without one, a server is never full."""
    limits = [server.settings.maxconn for server in backend.servers if not server.settings.backup]
    return all(limit is not None and limit.lstrip("0") != "" for limit in limits)


def _all(values: list[bool | None]) -> bool | None:
    return False if False in values else None if None in values else True


def _any(values: list[bool | None]) -> bool | None:
    return True if True in values else None if None in values else False


def _answers(rule: Rule) -> bool:
    """Whether the client gets a useful answer."""
    return rule.kind in _ANSWERS and not _fails(rule)


def _refuses(rule: Rule) -> bool:
    return rule.kind in _REFUSALS or _fails(rule)


def _fails(rule: Rule) -> bool:
    """A `return` of 5xx is the same failure that it should prevent."""
    return rule.kind == "return" and rule.target.startswith("5")


def _switching(frontend: Proxy) -> list[Rule]:
    return [rule for rule in frontend.rules if rule.kind == "use_backend"]


def _leads_to(frontend: Proxy, backend: Proxy) -> bool:
    names = (rule.target for rule in _switching(frontend))
    return frontend is backend or frontend.default_backend == backend.name or backend.name in names


def _ways(frontend: Proxy, backend: Proxy) -> Iterator[tuple[Place, Condition, list[Rule]]]:
    """Lines of `frontend` that route to `backend`, each with its condition and the rules before it."""
    switching = _switching(frontend)
    dynamic = any("%[" in rule.target for rule in switching)
    # HAProxy evaluates these before all switching rules, wherever they are written.
    ending = [rule for rule in frontend.rules if _answers(rule) or _refuses(rule)]
    earlier = sorted(ending, key=lambda rule: _PHASES.index(rule.phase))
    earlier += [rule for rule in frontend.rules if dynamic and rule.kind in _CHOICES]
    for rule in switching:
        if rule.target == backend.name:
            yield rule.at, condition(rule.words), earlier
        earlier = [*earlier, rule]
    if frontend.default_backend == backend.name:
        yield frontend.default_backend_at or frontend.at, condition(()), earlier
    elif frontend is backend and not frontend.default_backend:
        yield frontend.at, condition(()), earlier
