"""PURE. What each pool says now: the sample's decision, slowed, or an operator's word instead.

The only state on the way from the sample to the wire: the weight that HAProxy heard last, for
the slow rise, and the operator's word, which outranks the sample. Times and samples are passed
in; it opens nothing and waits for nothing.

The slow rise is a rule about what HAProxy hears. So the time in which it hears no weight, or
nothing at all, raises nothing; and who was taken out of the pool comes back from the floor.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent.weight import policy, reply
from agent.weight.policy import Counts, Decision, Rule

# What keeps new clients away, whatever the weight is.
LOCKS = ("drain", "maint")

# Of a longer silence no more than this raises a weight: who polls at all, polls more often.
SILENCE_S = 10.0

# When a weight was said last that is not being said: from the moment at which it is again, it rises.
STANDS_STILL = math.inf


@dataclass(frozen=True, slots=True)
class PoolReply:
    """What one pool says: the decision that was rendered, and the rendered line. ``ordered``:
    the decision is an operator's."""

    pool: str
    decision: Decision
    line: bytes
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class ReplyOverride:
    """What becomes of every reply: the word before all else, and the decision instead of the
    sample's, if any."""

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
        """Goes on from what a former builder's replies said last, so that no weight jumps at a reload."""
        self._before = dict(former._before)
        self.override = former.override

    def heard(self) -> dict[str, float] | None:
        """The weight that HAProxy keeps of each pool, in percent; what :meth:`resume` takes. None where no
        pool's rises slowly."""
        if all(rule.rise_per_s is None for _, rule in self.rules):
            return None
        return {name: weight for name, (weight, _) in self._before.items()}

    def resume(self, heard: Mapping[str, float] | None) -> None:
        """Goes on from what a former agent's replies said last; None if that is not known: then every
        weight rises from its floor. A pool that is not named was never spoken of."""
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
        """What all pools say at ``now_s``. Without counts there is only ``no_sample_reason``: why."""
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
            # What rises slowly rises from here when the order has ended.
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
        """All pools say the same."""
        if decision.weight is not None and self.override.decision is None:
            self._before = {name: (decision.weight, now_s) for name, _ in self.rules}
        return [self._render(name, decision) for name, _ in self.rules]
