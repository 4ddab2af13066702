"""How counts become a weight and its reason; what cannot be seen is never idle."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.weight import policy
from agent.weight.policy import Decision, Rule
from tests.weight.counted import Counted, busy


@pytest.mark.parametrize("count", range(31))
def test_the_formula_is_the_originals_for_every_count(count: int) -> None:
    expected = 0 if count >= 24 else round(100 * (1 - count / 24))
    assert policy.decide(Rule(capacity=24), busy(count), visible=True) == Decision(
        expected, f"{count}/24 busy", known=True
    )


@given(st.integers(0, 10**6), st.floats(0.001, 10**6))
def test_the_formula_is_a_whole_share_that_never_rises_with_business(count: int, capacity: float) -> None:
    share = policy.formula(count, capacity)
    assert 0 <= share <= 100
    assert policy.formula(count + 1, capacity) <= share
    assert (share == 100 or count > 0) and (share == 0 or count < capacity)


def test_halves_are_rounded_to_even_as_pythons_round_does() -> None:
    assert [policy.formula(count, 8) for count in (1, 3, 5, 7)] == [88, 62, 38, 12]


def test_threads_are_counted_where_the_rule_says_so() -> None:
    assert policy.decide(Rule("threads", 60), busy(5), visible=True) == Decision(75, "15/60 busy", known=True)


def test_slots_are_the_sum_of_all_threads() -> None:
    assert policy.decide(Rule("threads", None), busy(10), visible=True) == Decision(90, "30/300 busy", known=True)


def test_a_host_without_workers_is_idle_whatever_its_capacity_is() -> None:
    assert policy.decide(Rule(capacity=24), Counted(), visible=True) == Decision(100, "0/24 busy", known=True)
    assert policy.decide(Rule("threads", None), Counted(), visible=True) == Decision(100, "0/0 busy", known=True)


@pytest.mark.parametrize(
    ("capacity", "shown"), [(24.0, "24"), (2.5, "2.5"), (1_000_000, "1000000"), (1_000_000.0, "1000000"), (0.1, "0.1")]
)
def test_a_capacity_is_shown_as_people_write_numbers(capacity: float, shown: str) -> None:
    assert policy.decide(Rule(capacity=capacity), busy(0), visible=True).reason == f"0/{shown} busy"


def test_more_than_full_is_zero_and_says_how_much_more() -> None:
    assert policy.decide(Rule(capacity=24), busy(30), visible=True) == Decision(0, "30/24 busy", known=True)


def test_the_floor_is_the_least_weight_of_what_is_known() -> None:
    rule = Rule(capacity=24, floor=10)
    assert [policy.decide(rule, busy(n), visible=True).weight for n in (30, 23, 21, 12)] == [10, 10, 12, 50]


BLIND = {
    "cannot see processes": (busy(3), False),
    "cannot read titles": (Counted(unparsable=1), True),
    "readers hang": (Counted(workers=2, readable=0, busy_processes=1, quarantined=2), True),
}


@pytest.mark.parametrize("why", BLIND)
def test_what_cannot_be_seen_is_unknown_and_never_idle(why: str) -> None:
    counts, visible = BLIND[why]
    assert policy.decide(Rule(capacity=24), counts, visible=visible) == Decision(None, why, known=False)


def test_unknown_has_the_weight_that_the_operator_chose_and_no_floor() -> None:
    rule = Rule(capacity=24, floor=60, unknown=50)
    assert policy.decide(rule, Counted(), visible=False) == Decision(50, "cannot see processes", known=False)


def test_one_readable_worker_is_enough_to_know() -> None:
    counts = Counted(workers=3, readable=1, busy_processes=2, unparsable=1, quarantined=2)
    assert policy.decide(Rule(capacity=4), counts, visible=True) == Decision(50, "2/4 busy", known=True)


def test_a_weight_falls_at_once_and_rises_no_faster_than_the_rule() -> None:
    rule = Rule(rise_per_s=5)
    assert policy.limit_rise(rule, 20, (80, 0), 0.1) == 20
    assert policy.limit_rise(rule, 80, (20, 10), 12) == 30
    assert policy.limit_rise(rule, 80, (20, 10), 1000) == 80


def test_a_weight_jumps_where_nothing_was_said_before_or_rise_is_off() -> None:
    assert policy.limit_rise(Rule(rise_per_s=5), 80, None, 0) == 80
    assert policy.limit_rise(Rule(rise_per_s=None), 80, (20, 0), 0) == 80


def test_a_clock_that_stands_or_goes_back_raises_nothing() -> None:
    assert policy.limit_rise(Rule(rise_per_s=5), 80, (20, 10), 10) == 20
    assert policy.limit_rise(Rule(rise_per_s=5), 80, (20, 10), 3) == 20


def test_untitled_workers_and_others_are_told_in_the_reason() -> None:
    counts = Counted(30, 30, 8, 40, 300, untitled=2, others_milli=1500)
    assert policy.decide(Rule(capacity=24), counts, visible=True) == Decision(
        60, "9.5/24 busy, 2 untitled, 1.5 by others", known=True
    )


def test_cores_that_workers_take_are_a_fraction() -> None:
    counts = Counted(30, 30, 8, 40, 300, untitled=2, cores_milli=5230)
    assert policy.decide(Rule("cpu", 24), counts, visible=True) == Decision(78, "5.2/24 cores busy", known=True)
    assert policy.decide(Rule("cpu", 4), counts, visible=True).weight == 0


@pytest.mark.parametrize(
    ("known_busy", "blind", "weight"),
    [(0, 24, None), (20, 3, 17), (20, 4, None), (24, 3, 0), (0, 23, 100)],
    ids=["all may be busy", "not full either way", "may be full", "full either way", "free either way"],
)
@pytest.mark.parametrize("kind", ["unparsable", "unread"])
def test_unreadable_workers(known_busy: int, blind: int, weight: int | None, kind: str) -> None:
    """They make the state unknown if they decide whether the host is full."""
    counts = replace(Counted(30, 30, known_busy, known_busy, 300), **{kind: blind})
    decided = policy.decide(Rule(capacity=24), counts, visible=True)
    assert decided.weight == weight
    assert decided.known is (weight is not None)
    assert weight is not None or decided.reason == f"cannot read {blind} workers"


def test_all_threads_are_no_capacity_where_most_workers_cannot_be_read() -> None:
    slots = Rule("threads", None)
    assert policy.decide(slots, Counted(2, 2, 0, 0, 20, unread=1), visible=True).weight == 100
    assert policy.decide(slots, Counted(2, 2, 0, 0, 20, unread=2), visible=True).reason == "cannot read 2 workers"


def test_no_worker_is_idle_only_where_the_whole_host_is_seen() -> None:
    nobody = policy.decide(Rule(capacity=24), Counted(), visible=True, whole=False)
    assert (nobody.known, nobody.reason) == (False, "sees no workers, nor the whole host")
    assert policy.decide(Rule(capacity=24), Counted(), visible=True).weight == 100
    assert policy.decide(Rule(capacity=24), busy(0), visible=True, whole=False).weight == 100
