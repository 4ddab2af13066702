"""PURE. What each pool says now: the sample's verdict, slowed, or an operator's word instead.

The only state on the way from the sample to the wire: the weight said last, for the slow
rise, and the operator's word, which outranks the sample. Times and samples are passed in; it
opens nothing and waits for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.weight import policy, reply
from agent.weight.policy import Counts, Rule, Verdict


@dataclass(frozen=True, slots=True)
class Said:
    """What one pool says: the verdict that was rendered, and the rendered line. ``ordered``:
    the verdict is an operator's."""

    pool: str
    verdict: Verdict
    line: bytes
    ordered: bool = False


@dataclass(frozen=True, slots=True)
class Word:
    """What becomes of every reply: the word before all else, and the verdict instead of the
    sample's, if any."""

    admin: str = ""
    verdict: Verdict | None = None


class Speaker:
    """The voice of all pools, in the configuration's order; the default pool is first.

    ``rules`` has each pool's name and rule."""

    def __init__(self, rules: Sequence[tuple[str, Rule]], health: str) -> None:
        self.rules = list(rules)
        self._health = health
        self._before: dict[str, tuple[float, float]] = {}
        self.rising = False
        self.word = Word()

    def inherit(self, former: "Speaker") -> None:
        """Goes on from what a former speaker said last, so that a reload lets nothing jump."""
        self._before = dict(former._before)
        self.word = former.word

    def speak(self, counts: Sequence[Counts] | None, now_s: float, *, visible: bool, silence: str) -> list[Said]:
        """What all pools say at ``now_s``. Without counts there is only ``silence``: why."""
        self.rising = False
        return [
            self._say(name, rule, self._verdict(rule, None if counts is None else counts[i], visible, silence), now_s)
            for i, (name, rule) in enumerate(self.rules)
        ]

    @staticmethod
    def _verdict(rule: Rule, counts: Counts | None, visible: bool, silence: str) -> Verdict:
        if counts is None:
            return policy.unknown(rule, silence)
        return policy.decide(rule, counts, visible=visible)

    def _say(self, name: str, rule: Rule, verdict: Verdict, now_s: float) -> Said:
        ordered = self.word.verdict
        if ordered is not None:
            if ordered.weight is not None:
                # What rises slowly rises from here when the order has ended.
                self._before[name] = (ordered.weight, now_s)
        elif verdict.weight is not None:
            slowed = policy.rise(rule, verdict.weight, self._before.get(name), now_s)
            self._before[name] = (slowed, now_s)
            if int(slowed) < verdict.weight:
                self.rising = True
                verdict = replace(verdict, weight=int(slowed), reason=f"{verdict.reason}, rising")
        return self._render(name, verdict)

    def _render(self, name: str, verdict: Verdict) -> Said:
        ordered = self.word.verdict
        verdict = ordered or verdict
        line = reply.render(verdict, health=self._health, admin=self.word.admin)
        return Said(name, verdict, line, ordered is not None)

    def everywhere(self, verdict: Verdict) -> list[Said]:
        """All pools say the same."""
        return [self._render(name, verdict) for name, _ in self.rules]
