"""The operator's override, in plain values: what is active, until when, and what is still owed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import values
from agent.operate import override
from agent.operate.override import (
    LATE_S,
    Order,
    Override,
    OverrideState,
    PersistedOverride,
    read_order,
    restored,
)
from agent.weight import reply
from agent.weight.policy import Decision
from agent.weight.pools import LOCKS, ReplyOverride

WALL_S = 1_800_000_000.0
READY_FOR_S = 5.0

SAMPLE = Decision(75, "6/24 busy", known=True)

times = st.floats(0, 4e9)
words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=20)


@st.composite
def overrides(draw: st.DrawFn) -> Override:
    kind = draw(st.sampled_from(override.OVERRIDE_KINDS))
    percent = draw(st.integers(0, 100)) if kind == "weight" else None
    since_s = draw(times)
    lasts_s = draw(st.none() | st.floats(1, values.LASTING_MAX_S))
    return Override(kind, percent, draw(words), draw(words), since_s, None if lasts_s is None else since_s + lasts_s)


records = st.builds(PersistedOverride, st.none() | overrides(), st.booleans())


def ordered(kind: str, lasts_s: float | None = None, percent: int | None = None) -> Override:
    return Order(kind, percent, lasts_s, "kernel update").override("alice", WALL_S)


def show_when(since_s: float, until_s: float | None) -> str:
    return f"since {since_s:.0f}" + ("" if until_s is None else f" until {until_s:.0f}")


def line(switch: OverrideState, health: str = "up") -> bytes:
    word = switch.reply(show_when)
    return reply.render(word.decision or SAMPLE, health=health, admin=word.admin)


@pytest.mark.parametrize("kind", LOCKS)
def test_drain_and_maint_are_said_without_a_weight_and_tell_who_when_and_why(kind: str) -> None:
    switch = OverrideState().ordered(ordered(kind, 60), 0)
    note = f"{kind} by alice since 1800000000 until 1800000060: kernel update"
    assert line(switch) == f"{kind} up #{note}\n".encode()


@pytest.mark.parametrize("kind", LOCKS)
def test_drain_and_maint_are_a_bare_word_where_no_health_is_said(kind: str) -> None:
    assert line(OverrideState().ordered(ordered(kind), 0), "none") == f"{kind}\n".encode()


def test_a_weight_is_said_in_the_samples_place() -> None:
    switch = OverrideState().ordered(ordered("weight", percent=40), 0)
    assert line(switch) == b"up 40% #weight 40% by alice since 1800000000: kernel update\n"
    assert line(switch, "none") == b"40%\r\n"


def test_an_owed_ready_is_said_before_the_samples_own_words() -> None:
    assert line(OverrideState(ready_owed=True)) == b"ready up 75% #6/24 busy\n"
    assert line(OverrideState(ready_owed=True), "none") == b"ready 75%\r\n"


def test_ready_is_never_said_unless_something_was_locked() -> None:
    assert OverrideState().ended().reply(show_when) == ReplyOverride()
    assert OverrideState().ordered(ordered("weight", percent=40), 0).ended().reply(show_when) == ReplyOverride()


@pytest.mark.parametrize("kind", LOCKS)
def test_the_end_of_a_lock_is_said_for_its_time_and_then_never_again(kind: str) -> None:
    switch = OverrideState().ordered(ordered(kind), 0).ended().heard(100, READY_FOR_S)
    assert switch.next_s == 100 + READY_FOR_S
    assert switch.ticked(104.9) == switch
    assert switch.ticked(105) == OverrideState()


def test_the_time_of_ready_begins_when_somebody_can_hear_it() -> None:
    switch = OverrideState().ordered(ordered("drain"), 0).ended()
    assert switch.next_s is None
    assert switch.ticked(1e9).ready_owed


def test_the_time_of_ready_begins_anew_when_the_agent_slept_through_it() -> None:
    switch = OverrideState(ready_owed=True).heard(0, READY_FOR_S)
    woken = switch.ticked(READY_FOR_S + LATE_S + 1)
    assert woken.ready_owed
    assert woken.heard(100, READY_FOR_S).next_s == 100 + READY_FOR_S


@pytest.mark.parametrize("kind", LOCKS)
def test_an_override_that_runs_out_owes_what_an_ended_one_owes(kind: str) -> None:
    switch = OverrideState().ordered(ordered(kind, 60), 1000)
    assert switch.ticked(1059.9) == switch
    assert switch.ticked(1060) == switch.ended() == OverrideState(ready_owed=True)


def test_a_weight_instead_of_a_drain_takes_the_drain_back() -> None:
    switch = OverrideState().ordered(ordered("drain"), 0).ordered(ordered("weight", percent=40), 1)
    assert line(switch).startswith(b"ready up 40% #")
    heard = switch.heard(1, READY_FOR_S)
    assert line(heard.ticked(1 + READY_FOR_S)).startswith(b"up 40% #")


def test_a_lock_instead_of_a_lock_says_only_the_new_one() -> None:
    switch = OverrideState().ordered(ordered("drain"), 0).ordered(ordered("maint"), 1)
    assert line(switch).startswith(b"maint up #")
    assert switch.ended() == OverrideState(ready_owed=True)


def test_a_drain_while_ready_is_said_is_a_drain() -> None:
    switch = OverrideState(ready_owed=True).heard(0, READY_FOR_S).ordered(ordered("drain"), 1)
    assert line(switch).startswith(b"drain up #")
    assert switch.next_s is None


def test_what_must_be_taken_back_is_in_the_record_before_and_while_it_is() -> None:
    drained = OverrideState().ordered(ordered("drain"), 0)
    assert restored(drained.record, WALL_S, 0).locks
    assert restored(drained.ended().record, WALL_S, 0) == OverrideState(ready_owed=True)
    assert restored(OverrideState().record, WALL_S, 0) == OverrideState()


def test_a_ready_in_doubt_is_said_only_if_it_is_ordered_and_until_it_was_said_once() -> None:
    doubtful = restored(PersistedOverride(), WALL_S, 0, in_doubt=True)
    assert doubtful.reply(show_when) == ReplyOverride()
    weighted = doubtful.ordered(ordered("weight", 60, percent=40), 0)
    assert weighted.ticked(60) == doubtful, "what ends by itself says nothing that is in doubt"
    for switch in (doubtful, weighted):
        heard = switch.readied().heard(100, READY_FOR_S)
        assert line(heard) == b"ready up 75% #6/24 busy\n"
        assert heard.ticked(100 + READY_FOR_S + LATE_S + 1).in_doubt, "who slept has told nobody"
        assert heard.ticked(100 + READY_FOR_S) == OverrideState()


def test_an_ended_lock_leaves_no_doubt() -> None:
    """Once its ready is sent nothing is in doubt, and then an ordered ready only ends an override."""
    drained = restored(PersistedOverride(), WALL_S, 0, in_doubt=True).ordered(ordered("drain", 60), 0)
    assert drained.ticked(60).heard(60, READY_FOR_S).ticked(60 + READY_FOR_S) == OverrideState()
    assert OverrideState().readied() == OverrideState()


def test_an_override_goes_on_for_what_is_left_of_it_after_a_restart() -> None:
    record = OverrideState().ordered(ordered("drain", 60), 0).record
    assert restored(record, WALL_S + 45, 7000).next_s == 7015


def test_an_override_that_ran_out_while_the_agent_was_away_is_taken_back() -> None:
    record = OverrideState().ordered(ordered("maint", 60), 0).record
    assert restored(record, WALL_S + 61, 7000) == OverrideState(ready_owed=True)
    weight = OverrideState().ordered(ordered("weight", 60, percent=40), 0).record
    assert restored(weight, WALL_S + 61, 7000) == OverrideState()


@given(overrides(), times, times)
def test_no_clock_makes_an_override_last_longer_than_ordered(of: Override, wall_s: float, now_s: float) -> None:
    switch = restored(PersistedOverride(of), wall_s, now_s)
    if of.until_s is None:
        assert switch.next_s is None
    elif switch.override:
        assert switch.next_s is not None
        assert now_s <= switch.next_s <= now_s + (of.until_s - of.since_s)
    else:
        assert wall_s >= of.until_s


@given(records)
def test_a_record_is_read_back_as_it_was_written(record: PersistedOverride) -> None:
    assert override.from_value(override.to_value(record)) == record


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["override", "ready_owed", "more"]), json_values, max_size=3),
    st.none() | st.fixed_dictionaries(dict.fromkeys(("kind", "weight", "who", "why", "since", "until"), json_values)),
)
def test_what_is_no_record_is_refused_as_such(value: dict[str, Any], inner: dict[str, Any] | None) -> None:
    if inner is not None:
        value["override"] = inner
    try:
        record = override.from_value(value)
    except ValueError as error:
        assert str(error) == "not a valid override record"
    else:
        assert override.to_value(record) == value


def test_a_record_of_a_lock_with_a_weight_is_none() -> None:
    value = override.to_value(PersistedOverride(ordered("drain")))
    value["override"]["weight"] = 40
    with pytest.raises(ValueError, match="not a valid override record"):
        override.from_value(value)


@pytest.mark.parametrize(("words", "percent"), [("40%", 40), ("40", 40), ("0", 0), ("100%", 100)])
def test_a_weight_is_read_with_and_without_its_sign(words: str, percent: int) -> None:
    assert read_order("weight", {"weight": words}).percent == percent


@pytest.mark.parametrize(
    ("kind", "request_", "named"),
    [
        ("weight", {}, "weight: missing; allowed: a whole percentage"),
        ("weight", {"weight": "101%"}, 'weight: found \'101%\'; allowed: a whole percentage from "0%" to "100%"'),
        ("weight", {"weight": "-1"}, "weight: found '-1'; allowed"),
        ("weight", {"weight": "4.5"}, "weight: found '4.5'; allowed"),
        ("weight", {"weight": 40}, "weight: found '40'; allowed"),
        ("drain", {"for": "0s"}, 'for: found \'0s\'; allowed: a duration from "1s" to "365d"'),
        ("drain", {"for": "366d"}, "for: found '366d'; allowed"),
        ("drain", {"for": "soon"}, "for: found 'soon'; allowed"),
        ("drain", {"for": 30}, "for: found '30'; allowed"),
        ("drain", {"reason": "two\nlines"}, "reason: found 'two\\nlines'; allowed: one line"),
        ("drain", {"reason": "x" * 201}, "allowed: one line of at most 200"),
        ("drain", {"reason": "\ud800"}, "allowed: one line"),
        ("drain", {"fro": "30m"}, "unknown key 'fro'; allowed with drain: for, reason"),
        ("drain", {"weight": "40%"}, "unknown key 'weight'; allowed with drain"),
    ],
)
def test_an_order_out_of_range_is_refused_with_what_is_allowed(
    kind: str, request_: dict[str, object], named: str
) -> None:
    with pytest.raises(values.Wrong) as refused:
        read_order(kind, request_)
    assert named in str(refused.value)
