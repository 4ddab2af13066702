"""What is read from a title: every row of titles.tsv, and what no row can hold."""

import re
from pathlib import Path

import pytest

from agent._scan import PRESETS, Selector

Reading = tuple[int, int, bool] | str | None

_ESCAPE = re.compile(rb"\\(0|x[0-9a-f]{2})")


def _unescape(text: str) -> bytes:
    return _ESCAPE.sub(lambda m: b"\0" if m[1] == b"0" else bytes.fromhex(m[1][1:].decode()), text.encode())


def _expected(kind: str, busy: str, total: str, stopping: str) -> Reading:
    match kind:
        case "worker":
            return int(busy), int(total), stopping == "yes"
        case "idle":
            return 0, 1, False
        case "busy":
            return 1, 1, False
        case "unparsable":
            return "unparsable"
        case "no":
            return None
    raise AssertionError(kind)


def _rows() -> list[tuple[str, bytes, Reading]]:
    lines = Path(__file__).with_name("titles.tsv").read_text().splitlines()
    rows = [(line + "\t" * 5).split("\t")[:6] for line in lines if line and not line.startswith("#")]
    return [(preset, _unescape(title), _expected(*rest)) for preset, title, *rest in rows]


ROWS = _rows()
KNOWN = set(PRESETS) - {"custom"}


def test_the_table_speaks_of_presets_alone() -> None:
    assert {preset for preset, _, _ in ROWS} <= KNOWN
    assert len(ROWS) >= 40


@pytest.mark.parametrize(("preset", "cmdline", "expected"), ROWS)
def test_every_row_is_read_as_the_table_says(preset: str, cmdline: bytes, expected: Reading) -> None:
    assert Selector(preset).read(cmdline) == expected


@pytest.mark.parametrize(("preset", "cmdline", "expected"), [row for row in ROWS if row[2] is not None])
def test_no_other_preset_takes_the_title_for_its_own(preset: str, cmdline: bytes, expected: Reading) -> None:
    others = KNOWN - {preset}
    assert {Selector(other).read(cmdline) for other in others} == {None}


@pytest.mark.parametrize(
    ("busy", "total", "expected"),
    [
        ("0", "1", (0, 1, False)),
        ("999999", "999999", (999999, 999999, False)),
        ("0000003", "5", "unparsable"),
        ("000003", "5", (3, 5, False)),
        ("1000000", "1000000", "unparsable"),
        ("6", "5", "unparsable"),
        ("-1", "5", "unparsable"),
        ("+1", "5", "unparsable"),
        ("1.0", "5", "unparsable"),
        ("", "5", "unparsable"),
        ("\u0663", "5", "unparsable"),
    ],
)
def test_counts_are_one_to_six_digits_and_never_more_busy_than_there_are(
    busy: str, total: str, expected: Reading
) -> None:
    assert Selector("sidekiq").read(f"sidekiq 7.3.0 shop [{busy} of {total} busy]".encode()) == expected


def test_a_tag_of_any_bytes_changes_nothing() -> None:
    for byte in range(1, 256):
        title = b"sidekiq 7.3.0 " + bytes([byte]) * 30 + b" [3 of 5 busy]"
        assert Selector("sidekiq").read(title) == (3, 5, False), byte


def test_every_cut_of_a_title_is_unparsable_or_no_worker_but_never_another_count() -> None:
    title = b"sidekiq 7.3.0 shop [13 of 25 busy] stopping"
    whole = title.index(b"]") + 1
    stopping = len(title)
    for end in range(len(title)):
        reading = Selector("sidekiq").read(title[:end])
        if end < len("sidekiq 7"):
            assert reading is None, end
        elif end < whole:
            assert reading == "unparsable", end
        else:
            assert reading == (13, 25, end >= stopping), end


def test_a_custom_pattern_reads_counts_from_the_first_string_alone() -> None:
    selector = Selector("custom", pattern=r"\[(?P<busy>\d+)/(?P<total>\d+)\]")
    assert selector.read(b"myworker a [2/4]\0[3/4]") == (2, 4, False)
    assert selector.read(b"myworker\0[3/4]") is None
    assert selector.read(b"myworker [5/4]") == "unparsable"


def test_a_custom_pattern_reads_states() -> None:
    selector = Selector("custom", pattern=r"^job: (?P<state>\w+)", busy_states=["run", "wait-for-lock"])
    titles = (b"job: run", b"job: idle", b"jobs")
    assert [selector.read(title) for title in titles] == [(1, 1, False), (0, 1, False), None]


@pytest.mark.parametrize(
    ("pattern", "busy_states", "why"),
    [
        ("(", [], "does not compile"),
        ("^x", [], "needs the groups"),
        ("(?P<busy>.)", [], "needs the groups"),
        ("(?P<state>.)", [], "busy_states"),
        ("(?P<busy>.)(?P<total>.)", ["x"], "busy_states"),
        ("(?P<busy>x{1000}{1000})(?P<total>.)", [], "does not compile"),
    ],
)
def test_a_custom_pattern_without_meaning_is_refused_with_the_reason(
    pattern: str, busy_states: list[str], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        Selector("custom", pattern=pattern, busy_states=busy_states)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match='unknown preset "puma"'):
        Selector("puma")
