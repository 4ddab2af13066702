"""The pools' replies: each by its own rule, rising slowly if configured, and all alike during an override."""

import pytest

from agent.weight.policy import Decision, Rule
from agent.weight.pools import ReplyBuilder, ReplyOverride
from tests.weight.counted import Counted, busy


def builder(*rules: Rule, health: str = "up") -> ReplyBuilder:
    return ReplyBuilder(list(zip(("", "mail", "shop"), rules, strict=False)), health)


def lines(of: ReplyBuilder, now_s: float, *counts: Counted) -> list[bytes]:
    return [said.line for said in of.build(counts, now_s, visible=True, no_sample_reason="")]


SLOW = Rule(capacity=20, rise_per_s=5.0)


def test_every_pool_says_its_own_by_its_own_rule() -> None:
    both = builder(Rule(capacity=24), Rule(capacity=10))
    assert lines(both, 0, busy(6), busy(6)) == [b"up 75% #6/24 busy\n", b"up 40% #6/10 busy\n"]
    assert [said.pool for said in both.build((busy(0), busy(0)), 1, visible=True, no_sample_reason="")] == ["", "mail"]


def test_without_a_sample_all_pools_say_why_and_what_their_rules_want() -> None:
    both = builder(Rule(capacity=24), Rule(unknown=50))
    said = both.build(None, 0, visible=False, no_sample_reason="no sample yet")
    assert [s.line for s in said] == [b"up #no sample yet\n", b"up 50% #no sample yet\n"]
    assert not any(s.decision.known for s in said)


def test_a_blind_scan_is_unknown_in_every_pool() -> None:
    both = builder(Rule(capacity=24), Rule(capacity=24))
    said = both.build((busy(6), Counted()), 0, visible=False, no_sample_reason="")
    assert [s.line for s in said] == [b"up #cannot see processes\n"] * 2


def test_a_weight_falls_at_once_and_rises_slowly_and_says_so() -> None:
    slow = builder(SLOW)
    assert lines(slow, 0, busy(2)) == [b"up 90% #2/20 busy\n"]
    assert lines(slow, 1, busy(16)) == [b"up 20% #16/20 busy\n"]
    assert not slow.rising
    assert lines(slow, 3, busy(2)) == [b"up 30% #2/20 busy, rising\n"]
    assert slow.rising
    assert lines(slow, 9, busy(2)) == [b"up 60% #2/20 busy, rising\n"]
    assert lines(slow, 15, busy(2)) == [b"up 90% #2/20 busy\n"]
    assert not slow.rising


def test_a_slow_rise_adds_up_however_often_it_is_asked_for() -> None:
    slow = builder(SLOW)
    lines(slow, 0, busy(20))
    for tick in range(1, 1001):
        said = lines(slow, tick / 100, busy(0))
    assert said in ([b"up 49% #0/20 busy, rising\n"], [b"up 50% #0/20 busy, rising\n"])


def test_a_host_that_was_never_spoken_of_does_not_begin_with_a_slow_rise() -> None:
    assert lines(builder(SLOW), 0, busy(0)) == [b"up 100% #0/20 busy\n"]


def test_what_haproxy_did_not_hear_raises_no_weight() -> None:
    slow = builder(SLOW)
    lines(slow, 0, busy(20))
    for now_s in (1, 22):
        assert slow.build(None, now_s, visible=False, no_sample_reason="no sample")[0].line == b"up #no sample\n"
    assert lines(slow, 25, busy(0)) == [b"up 0% #0/20 busy, rising\n"]
    assert lines(slow, 26, busy(0)) == [b"up 5% #0/20 busy, rising\n"]


def test_a_long_silence_raises_no_weight_by_more_than_a_poller_could_have_heard() -> None:
    slow = builder(SLOW)
    lines(slow, 0, busy(20))
    assert lines(slow, 3600, busy(0)) == [b"up 50% #0/20 busy, rising\n"]


@pytest.mark.parametrize("kind", ["drain", "maint"])
def test_who_was_taken_out_of_the_pool_comes_back_from_the_floor(kind: str) -> None:
    slow = builder(Rule(capacity=20, floor=3, rise_per_s=5.0))
    assert lines(slow, 0, busy(2)) == [b"up 90% #2/20 busy\n"]
    slow.override = ReplyOverride(kind, Decision(None, "by alice", known=True))
    assert lines(slow, 1, busy(2)) == [f"{kind} up #by alice\n".encode()]
    slow.override = ReplyOverride("ready")
    assert lines(slow, 30, busy(2)) == [b"ready up 3% #2/20 busy, rising\n"]
    assert lines(slow, 31, busy(2)) == [b"ready up 8% #2/20 busy, rising\n"]


def test_an_ordered_weight_is_what_it_rises_from() -> None:
    slow = builder(SLOW)
    slow.override = ReplyOverride("", Decision(40, "by alice", known=True))
    lines(slow, 0, busy(0))
    slow.override = ReplyOverride()
    assert lines(slow, 30, busy(0)) == [b"up 40% #0/20 busy, rising\n"]
    assert lines(slow, 31, busy(0)) == [b"up 45% #0/20 busy, rising\n"]


def test_another_agent_goes_on_from_what_haproxy_heard_of_each_pool() -> None:
    former, new = builder(SLOW, SLOW), builder(SLOW, SLOW)
    lines(former, 0, busy(20), busy(10))
    assert former.heard() == {"": 0, "mail": 50}
    new.resume({"": 0})
    assert lines(new, 60, busy(0), busy(0)) == [b"up 0% #0/20 busy, rising\n", b"up 100% #0/20 busy\n"]


def test_unknown_last_weights() -> None:
    """If the last weights sent are unknown, every weight rises from its floor."""
    both = builder(SLOW, Rule(capacity=20, floor=1))
    both.resume(None)
    assert lines(both, 60, busy(0), busy(0)) == [b"up 0% #0/20 busy, rising\n", b"up 100% #0/20 busy\n"]


def test_after_a_release_haproxy_has_all() -> None:
    slow = builder(SLOW)
    lines(slow, 0, busy(20))
    slow.everywhere(Decision(100, "stopping", known=True), 1)
    assert slow.heard() == {"": 100}


def test_where_nothing_rises_slowly_nothing_is_kept() -> None:
    assert builder(Rule()).heard() is None


def test_every_pool_rises_by_its_own_past() -> None:
    both = builder(SLOW, SLOW)
    lines(both, 0, busy(20), busy(10))
    assert lines(both, 1, busy(0), busy(0)) == [b"up 5% #0/20 busy, rising\n", b"up 55% #0/20 busy, rising\n"]


def test_a_successor_goes_on_from_what_was_said_last() -> None:
    former, new = builder(SLOW), builder(SLOW)
    lines(former, 0, busy(20))
    new.inherit(former)
    assert lines(new, 1, busy(0)) == [b"up 5% #0/20 busy, rising\n"]


def test_everywhere_is_one_word_from_every_pool() -> None:
    both = builder(Rule(capacity=24), Rule(capacity=24), health="none")
    said = both.everywhere(Decision(100, "stopping", known=True), 0)
    assert [(s.pool, s.line) for s in said] == [("", b"100%\r\n"), ("mail", b"100%\r\n")]
