"""PURE. Each pool's current reply: the sample's decision after the slow rise, or an operator's override.

It holds the only state between the sample and the wire: the last weight that HAProxy got, for the slow rise, and the
override, which outranks the sample. Times and samples are passed in; it opens nothing and waits for nothing.

The slow rise is about what HAProxy gets. So the weight does not rise during times in which HAProxy gets no weight or
no reply, and a host that was taken out of the pool starts from the floor.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent.weight import policy, reply
from agent.weight.policy import Counts, Decision, Rule

# Overrides that keep new clients away, whatever the weight is.
LOCKS = ("drain", "maint")

# A pause between polls raises the weight by at most this much time: a real balancer polls more often.
SILENCE_S = 10.0

# The time of a weight that is not being sent at present: it starts to rise when it is sent again.
STANDS_STILL = math.inf


@dataclass(frozen=True, slots=True)
class PoolReply:
    """One pool's reply: the decision and the line made from it. ``ordered``: the decision is an override."""

    pool: str
    decision: Decision
    line: bytes
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class ReplyOverride:
    """How an override changes every reply: the keyword at the start, and the decision that replaces the sample's, if
    any."""

    admin: str = ""
    decision: Decision | None = None


class ReplyBuilder:
    """Builds the replies of all pools, in the configuration's order; the default pool is first.

    ``rules`` has each pool's name and rule."""

    def __init__(self, rules: Sequence[tuple[str, Rule]], health: str) -> None:
        self.rules = list(rules)
        self._health = health
        self._before: dict[str, tuple[float, float]] = {}
        self.rising = False
        self.override = ReplyOverride()

    def inherit(self, former: "ReplyBuilder") -> None:
        """Continues from the last replies of a previous builder, so that no weight jumps at a reload."""
        self._before = dict(former._before)
        self.override = former.override

    def heard(self) -> dict[str, float] | None:
        """The last weight that HAProxy got for each pool, in percent, for :meth:`resume`. None if no pool rises
        slowly."""
        if all(rule.rise_per_s is None for _, rule in self.rules):
            return None
        return {name: weight for name, (weight, _) in self._before.items()}

    def resume(self, heard: Mapping[str, float] | None) -> None:
        """Continues from the last weights of a previous agent; None if they are unknown: then every weight rises from
        its floor. For a pool that is not listed no weight was ever sent."""
        for name, rule in self.rules:
            if heard is None:
                self._before[name] = (rule.floor, STANDS_STILL)
            elif name in heard:
                self._before[name] = (heard[name], STANDS_STILL)

    def build(  # noqa: PLR0913 - what one scan saw, each thing by its name
        self,
        counts: Sequence[Counts] | None,
        now_s: float,
        *,
        visible: bool,
        no_sample_reason: str,
        whole: bool = True,
        hidden: Sequence[int] = (),
    ) -> list[PoolReply]:
        """The replies of all pools at ``now_s``. Without counts, ``no_sample_reason`` says why."""
        self.rising = False
        if counts is None:
            decisions = [policy.unknown(rule, no_sample_reason) for _, rule in self.rules]
        else:
            decisions = [
                policy.decide(rule, counts[i], visible=visible, whole=whole, hidden=hidden[i] if hidden else 0)
                for i, (_, rule) in enumerate(self.rules)
            ]
        pools = zip(self.rules, decisions, strict=True)
        return [self._build_one(name, rule, decision, now_s) for (name, rule), decision in pools]

    def _build_one(self, name: str, rule: Rule, decision: Decision, now_s: float) -> PoolReply:
        ordered, before = self.override.decision, self._before.get(name)
        if ordered is not None:
            # A slow rise continues from here when the override has ended.
            if self.override.admin in LOCKS:
                self._before[name] = (rule.floor, STANDS_STILL)
            elif ordered.weight is not None:
                self._before[name] = (ordered.weight, STANDS_STILL)
        elif decision.weight is None:
            if before is not None:
                self._before[name] = (before[0], STANDS_STILL)
        else:
            if before is not None:
                before = before[0], max(before[1], now_s - SILENCE_S)
            slowed = policy.limit_rise(rule, decision.weight, before, now_s)
            self._before[name] = (slowed, now_s)
            if int(slowed) < decision.weight:
                self.rising = True
                decision = replace(decision, weight=int(slowed), reason=f"{decision.reason}, rising")
        return self._render(name, decision)

    def _render(self, name: str, decision: Decision) -> PoolReply:
        ordered = self.override.decision
        decision = ordered or decision
        line = reply.render(decision, health=self._health, admin=self.override.admin)
        return PoolReply(name, decision, line, ordered is not None)

    def everywhere(self, decision: Decision, now_s: float) -> list[PoolReply]:
        """The same reply for all pools."""
        if decision.weight is not None and self.override.decision is None:
            self._before = {name: (decision.weight, now_s) for name, _ in self.rules}
        return [self._render(name, decision) for name, _ in self.rules]
