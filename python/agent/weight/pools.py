"""PURE. What each pool says now: the sample's decision, slowed, or an operator's word instead.

The only state on the way from the sample to the wire: the weight said last, for the slow
rise, and the operator's word, which outranks the sample. Times and samples are passed in; it
opens nothing and waits for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.weight import policy, reply
from agent.weight.policy import Counts, Decision, Rule


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

    def build(
        self,
        counts: Sequence[Counts] | None,
        now_s: float,
        *,
        visible: bool,
        no_sample_reason: str,
        whole: bool = True,
    ) -> list[PoolReply]:
        """What all pools say at ``now_s``. Without counts there is only ``no_sample_reason``: why."""
        self.rising = False
        if counts is None:
            decisions = [policy.unknown(rule, no_sample_reason) for _, rule in self.rules]
        else:
            decisions = [
                policy.decide(rule, counts[i], visible=visible, whole=whole) for i, (_, rule) in enumerate(self.rules)
            ]
        pools = zip(self.rules, decisions, strict=True)
        return [self._build_one(name, rule, decision, now_s) for (name, rule), decision in pools]

    def _build_one(self, name: str, rule: Rule, decision: Decision, now_s: float) -> PoolReply:
        ordered = self.override.decision
        if ordered is not None:
            if ordered.weight is not None:
                # What rises slowly rises from here when the order has ended.
                self._before[name] = (ordered.weight, now_s)
        elif decision.weight is not None:
            slowed = policy.limit_rise(rule, decision.weight, self._before.get(name), now_s)
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

    def everywhere(self, decision: Decision) -> list[PoolReply]:
        """All pools say the same."""
        return [self._render(name, decision) for name, _ in self.rules]
