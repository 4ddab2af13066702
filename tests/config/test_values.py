"""How operators write durations, shares and addresses, and how they are printed."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent._scan import Answerer
from agent.config import values
from agent.config.values import Kind, Wrong

GOOD: list[tuple[Kind[Any], object, object]] = [
    (values.duration, "0ms", 0),
    (values.duration, "500ms", 0.5),
    (values.duration, "1.5s", 1.5),
    (values.duration, "30m", 1800),
    (values.duration, "1h", 3600),
    (values.duration, "2d", 172800),
    (values.share, "0.1%", 0.1),
    (values.share, "100%", 100),
    (values.weight, "0%", 0),
    (values.weight, "100%", 100),
    (values.rise, "off", None),
    (values.rise, "5%/s", 5),
    (values.rise, "0.5%/s", 0.5),
    (values.unknown, "hold", None),
    (values.unknown, "50%", 50),
    (values.capacity, "cores", "cores"),
    (values.capacity, "slots", "slots"),
    (values.capacity, 24, 24),
    (values.capacity, 2.5, 2.5),
    (values.address, "127.0.0.1:5001", ("127.0.0.1", 5001)),
    (values.address, "[::]:0", ("::", 0)),
    (values.optional_address, "", None),
    (values.network, "10.0.0.0/8", "10.0.0.0/8"),
    (values.network, "10.1.2.3/8", "10.0.0.0/8"),
    (values.network, "2001:db8::1", "2001:db8::1/128"),
    (values.user, "www-data", "www-data"),
    (values.user, "1000", 1000),
    (values.user, 0, 0),
    (values.list_of(values.text), ["a", "b"], ("a", "b")),
]

BAD: list[tuple[Kind[Any], list[object]]] = [
    (values.duration, ["", "5", "5 s", "-5s", "s", "1e3s", "5S", "\u0663s", "1.s", 5, 5.0, True, None, ["5s"],
                       "366d"]),
    (values.share, ["0%", "0.05%", "101%", "5", "5 %", 5, 0.05]),
    (values.weight, ["-1%", "101%", "50.5%", "50", 50]),
    (values.rise, ["on", "5%", "0%/s", "101%/s", "5/s", 5, None]),
    (values.unknown, ["release", "101%", "50.5%", 50, False]),
    (values.capacity, ["many", "24", 0, -1, True, 1_000_001, float("nan"), float("inf"), [], {}]),
    (values.address, ["", "5001", ":5001", "localhost:5001", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:5001",
                      "[127.0.0.1]:5001", "[::1:5001", "127.0.0.1:+1", "127.0.0.1:\u0663", "127.1:5001", 5001]),
    (values.network, ["", "10.0.0.0/33", "x", "10.0.0.0/8/8", "fe80::1%eth0", "fe80::1%eth0/64", 10, None]),
    (values.user, ["", -1, True, 1.5, None, 2**32, "a\0b"]),
    (values.text, [5, None, "a\0b"]),
    (values.list_of(values.text), ["a", [1], {"a": 1}]),
    (values.integer(1, 9), [0, 10, "5", 5.0, True]),
    (values.one_of("up", "none"), ["UP", "", None, 1, []]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "found", "expected"), GOOD)
def test_what_is_allowed_is_read(kind: Kind[Any], found: object, expected: object) -> None:
    assert kind(found) == expected


@pytest.mark.parametrize(("kind", "found"), [(kind, found) for kind, all_found in BAD for found in all_found])
def test_what_is_not_allowed_is_refused_with_what_is(kind: Kind[Any], found: object) -> None:
    with pytest.raises(Wrong) as wrong:
        kind(found)
    assert str(wrong.value)


@pytest.mark.parametrize(("kind", "found", "expected"), GOOD)
def test_what_is_shown_is_read_back_to_the_same(kind: Kind[Any], found: object, expected: object) -> None:
    shown = kind.show(expected)
    assert kind(shown) == expected
    assert kind.show(kind(shown)) == shown


def test_a_wrong_item_of_a_list_is_named() -> None:
    with pytest.raises(Wrong, match=r"item 2 \('x'\) must be an address"):
        values.list_of(values.address)(["127.0.0.1:1", "x"])


def test_a_wrong_item_of_a_list_is_refused_in_its_own_words() -> None:
    with pytest.raises(Wrong, match=r"item 1 \('fe80::1%eth0'\) must be a network without an interface name"):
        values.list_of(values.network)(["fe80::1%eth0"])


addresses = st.ip_addresses().flatmap(
    lambda ip: st.one_of(st.just(f"{ip}"), st.integers(0, ip.max_prefixlen).map(lambda prefix: f"{ip}/{prefix}"))
)


@given(addresses | st.text("0123456789abcdef.:/%", max_size=30))
@example("fe80::1%eth0")
@example("10.0.0.0/0.255.255.255")
@example("::ffff:10.0.0.1/128")
def test_every_network_that_is_read_is_one_to_the_answerer(text: str) -> None:
    try:
        network = values.network(text)
    except Wrong:
        return
    Answerer([network])


def test_a_duration_is_shown_in_the_largest_unit_without_a_fraction() -> None:
    seconds = (0, 0.0005, 0.25, 1, 90, 1800, 5400, 86400)
    assert [values.show_duration(s) for s in seconds] == ["0ms", "0.5ms", "250ms", "1s", "90s", "30m", "90m", "1d"]


number = st.integers(0, 364)
fraction = st.sampled_from(["", ".5", ".25", ".001", ".999"])


@given(st.builds(lambda n, f, unit: f"{n}{f}{unit}", number, fraction, st.sampled_from(["ms", "s", "m", "h", "d"])))
@example("31536000000ms")
@example("1001ms")
def test_every_duration_is_read_back_from_what_is_shown(text: str) -> None:
    seconds = values.duration(text)
    assert values.duration(values.duration.show(seconds)) == seconds


@given(st.builds(lambda n, f: f"{n}{f}%", st.integers(1, 99), fraction))
def test_every_share_is_read_back_from_what_is_shown(text: str) -> None:
    assert values.share(values.share.show(values.share(text))) == values.share(text)


@given(
    st.sampled_from([values.duration, values.share, values.weight, values.rise, values.unknown, values.capacity,
                     values.address, values.optional_address, values.network, values.user, values.text]),
    st.text() | st.integers() | st.floats() | st.none() | st.lists(st.text()) | st.dictionaries(st.text(), st.text()),
)  # fmt: skip
def test_anything_at_all_is_read_or_refused(kind: Callable[[object], object], found: object) -> None:
    try:
        kind(found)
    except Wrong as wrong:
        assert str(wrong)
