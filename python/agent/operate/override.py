"""PURE. The operator's override: which one is active, until when, and what must still be taken back.

HAProxy keeps the last ``drain`` or ``maint`` for ever, so an agent that sent one owes a ``ready``: in every reply for
a while, because many servers may poll the same address, and then never again, because a ``ready`` undoes what
operators set in HAProxy itself. A weight owes nothing: the next reply has another one.

Two clocks, both passed in. ``wall_s`` is for people and for what outlives the agent; ``now_s`` is monotonic and
measures active overrides, so that setting the wall clock neither ends nor prolongs them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.config import values
from agent.config.values import Wrong
from agent.weight.policy import Decision
from agent.weight.pools import LOCKS, ReplyOverride

# HAProxy keeps the LOCKS until it gets ``ready``.
OVERRIDE_KINDS = (*LOCKS, "weight")

# A tick later than this means that the agent was stopped or suspended, and that polls went unanswered.
LATE_S = 1.0

# From when to when, for people; this module does not know the host's time zone.
ShowWhen = Callable[[float, float | None], str]

# For people, if it is unknown whether a ``ready`` is owed.
WAY_OUT = "if HAProxy still shows an old drain or maint, run: busyweight ready"

WALL_MAX_S = 253_402_300_799.0  # the end of the year 9999, after which dates cannot be shown


@dataclass(frozen=True, slots=True)
class Override:
    """What an operator wants the agent to reply instead of the sample. Times are wall clock times."""

    kind: str
    percent: int | None
    who: str
    why: str
    since_s: float
    until_s: float | None

    def title(self) -> str:
        """``drain``, ``maint`` or ``weight 40%``."""
        return self.kind if self.percent is None else f"{self.kind} {self.percent}%"

    def note(self, show_when: ShowWhen) -> str:
        """Who, since when, until when, why: on one line."""
        why = f": {self.why}" if self.why else ""
        return f"{self.title()} by {self.who} {show_when(self.since_s, self.until_s)}{why}"


@dataclass(frozen=True, slots=True)
class PersistedOverride:
    """What must outlive the agent. An override that locks implies a ``ready``; ``ready_owed`` is for an earlier
    one."""

    override: Override | None = None
    ready_owed: bool = False


@dataclass(frozen=True, slots=True)
class OverrideState:
    """The state of the override. Every change makes a new one.

    ``expires_s``: when the override ends, by the monotonic clock. ``ready_until_s``: until when ``ready`` is sent;
    None while it is owed but no polls are answered yet. ``in_doubt``: a previous agent may owe a ``ready`` of which
    there is no record; it is sent if an operator commands it.
    """

    override: Override | None = None
    expires_s: float | None = None
    ready_owed: bool = False
    ready_until_s: float | None = None
    in_doubt: bool = False

    @property
    def locks(self) -> bool:
        """Whether the active override stays in HAProxy until it gets ``ready``."""
        return self.override is not None and self.override.kind in LOCKS

    @property
    def record(self) -> PersistedOverride:
        """What must be on disk before this is sent."""
        return PersistedOverride(self.override, self.ready_owed)

    @property
    def next_s(self) -> float | None:
        """When :meth:`ticked` has something to do, by the monotonic clock; None for never."""
        times = [t for t in (self.expires_s, self.ready_until_s) if t is not None]
        return min(times, default=None)

    def ordered(self, override: Override, now_s: float) -> "OverrideState":
        """This override becomes active, and replaces any other."""
        lasts_s = None if override.until_s is None else override.until_s - override.since_s
        expires_s = None if lasts_s is None else now_s + lasts_s
        owed = override.kind not in LOCKS and (self.ready_owed or self.locks)
        return OverrideState(override, expires_s, ready_owed=owed, in_doubt=self.in_doubt)

    def ended(self) -> "OverrideState":
        """No override is active any more. A ``ready`` that is owed is sent from :meth:`heard` on."""
        return OverrideState(ready_owed=self.ready_owed or self.locks, in_doubt=self.in_doubt)

    def readied(self) -> "OverrideState":
        """An operator ends the override, and with it whatever a previous agent may have started."""
        ended = self.ended()
        return replace(ended, ready_owed=ended.ready_owed or self.in_doubt)

    def heard(self, now_s: float, ready_for_s: float) -> "OverrideState":
        """Polls are answered from now on: the time of an owed ``ready`` starts."""
        if not self.ready_owed or self.ready_until_s is not None:
            return self
        return replace(self, ready_until_s=now_s + ready_for_s)

    def ticked(self, now_s: float) -> "OverrideState":
        """The state after this much time."""
        if self.expires_s is not None and now_s >= self.expires_s:
            return self.ended()
        if self.ready_until_s is not None and now_s >= self.ready_until_s:
            # The agent was suspended or stopped meanwhile and answered no polls: then its time starts again.
            late = now_s - self.ready_until_s > LATE_S
            return replace(self, ready_owed=late, ready_until_s=None, in_doubt=self.in_doubt and late)
        return self

    def reply(self, show_when: ShowWhen) -> ReplyOverride:
        """How the override changes replies."""
        ready = "ready" if self.ready_owed else ""
        if self.override is None:
            return ReplyOverride(ready)
        decision = Decision(self.override.percent, self.override.note(show_when), known=True)
        return ReplyOverride(self.override.kind if self.locks else ready, decision)


def restored(record: PersistedOverride, wall_s: float, now_s: float, *, in_doubt: bool = False) -> OverrideState:
    """The state of an agent that finds this record; ``in_doubt`` if the record may not be the newest.

    An override that expired meanwhile is over, and its ``ready`` is owed. An override never lasts longer than
    commanded, however far back the wall clock was set.
    """
    switch = OverrideState(ready_owed=record.ready_owed, in_doubt=in_doubt)
    override = record.override
    if override is None:
        return switch
    switch = replace(switch, override=override)
    if override.until_s is None:
        return switch
    left_s = min(override.until_s - wall_s, override.until_s - override.since_s)
    return replace(switch, expires_s=now_s + left_s) if left_s > 0 else switch.ended()


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's command. ``kind`` is one of OVERRIDE_KINDS or ``ready``; ``for_s`` is how long the override
    lasts, or how long ``ready`` is sent."""

    kind: str
    percent: int | None
    for_s: float | None
    why: str

    def override(self, who: str, wall_s: float) -> Override:
        """The override that this command asks for, unless it is ``ready``."""
        until_s = None if self.for_s is None else wall_s + self.for_s
        return Override(self.kind, self.percent, who, self.why, wall_s, until_s)


def read_order(kind: str, request: Mapping[str, object]) -> Order:
    """The command in a request's keys: ``weight``, ``for``, ``reason``. Raises Wrong."""

    def read(key: str, of: values.Kind[Any], absent: Any) -> Any:
        if request.get(key) is None:
            return absent
        try:
            return of(request[key])
        except Wrong as wrong:
            raise Wrong(f"{key}: found {str(request[key])[:80]!r}; allowed: {wrong}") from None

    allowed = {"for", "reason", *(["weight"] if kind == "weight" else [])}
    for key in request:
        if key not in allowed:
            raise Wrong(f"unknown key {key[:80]!r}; allowed with {kind}: {', '.join(sorted(allowed))}")
    percent = read("weight", values.plain_percent, None)
    if kind == "weight" and percent is None:
        raise Wrong(f"weight: missing; allowed: {values.plain_percent.allowed}")
    return Order(kind, percent, read("for", values.lasting, None), read("reason", values.reason, ""))


def to_value(record: PersistedOverride) -> dict[str, Any]:
    """A record as plain values, for the state file and for status."""
    return {"override": record.override and as_value(record.override), "ready_owed": record.ready_owed}


def as_value(override: Override) -> dict[str, Any]:
    """An override as plain values; times in seconds since 1970."""
    return {
        "kind": override.kind,
        "weight": override.percent,
        "who": override.who,
        "why": override.why,
        "since": override.since_s,
        "until": override.until_s,
    }


def from_value(value: object) -> PersistedOverride:
    """The record that :func:`to_value` made. Raises ValueError with what is wrong."""
    try:
        fields = _fields(value, {"override", "ready_owed"})
        found = None if fields["override"] is None else _override(fields["override"])
        return PersistedOverride(found, _flag(fields["ready_owed"]))
    except (TypeError, KeyError, OverflowError, Wrong):
        raise ValueError("not a valid override record") from None


def _override(value: object) -> Override:
    fields = _fields(value, {"kind", "weight", "who", "why", "since", "until"})
    kind, percent, who, why = (fields[k] for k in ("kind", "weight", "who", "why"))
    if (
        kind not in OVERRIDE_KINDS
        or not isinstance(who, str)
        or not who.isprintable()
        or len(who) > values.REASON_LEN_MAX
    ):
        raise TypeError
    if (percent is not None) is not (kind == "weight"):
        raise TypeError
    since_s, until_s = _wall(fields["since"]), None if fields["until"] is None else _wall(fields["until"])
    if until_s is not None and not 0 < until_s - since_s <= values.LASTING_MAX_S + 1:
        raise TypeError
    return Override(
        kind, None if percent is None else values.plain_percent(str(percent)), who, values.reason(why), since_s, until_s
    )


def _fields(value: object, names: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != names:
        raise TypeError
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _wall(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError
    if not 0 <= value <= WALL_MAX_S:
        raise TypeError
    return float(value)
