"""A reply is one line that HAProxy's agent-check understands."""

from hypothesis import given
from hypothesis import strategies as st

from agent.weight.policy import Decision
from agent.weight.reply import DESCRIPTION_LEN_MAX, render


def test_a_weight_is_said_with_up_and_the_reason() -> None:
    assert render(Decision(75, "6/24 busy", known=True), health="up") == b"up 75% #6/24 busy\n"


def test_without_health_the_line_is_the_original_scripts() -> None:
    assert render(Decision(75, "6/24 busy", known=True), health="none") == b"75%\r\n"
    assert render(Decision(0, "30/24 busy", known=True), health="none") == b"0%\r\n"


def test_hold_says_no_weight_and_shows_why() -> None:
    assert render(Decision(None, "cannot see processes", known=False), health="up") == b"up #cannot see processes\n"


def test_hold_without_health_is_an_empty_line() -> None:
    assert render(Decision(None, "cannot see processes", known=False), health="none") == b"\n"


@given(st.none() | st.integers(0, 100), st.text(), st.sampled_from(["up", "none"]))
def test_no_reason_makes_another_line_or_word_of_it(weight: int | None, reason: str, health: str) -> None:
    line = render(Decision(weight, reason, known=True), health=health)
    words, _, description = line.partition(b"#")
    assert line.endswith(b"\n") and b"\n" not in line[:-1] and line.isascii()
    assert len(description) <= DESCRIPTION_LEN_MAX + 1
    assert words.split() == ([b"up"] if health == "up" else []) + ([] if weight is None else [b"%d%%" % weight])
