"""The support page: how it shows results, and that docs/ has every cell of the matrix."""

from __future__ import annotations

import ast
import re
from datetime import date
from pathlib import Path

import pytest

from .support import PROGRAMS, RELEASES, Cell, Column, Results, page

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/support.md"

COLUMNS = [Column(release, {"debian": "12.1"}) for release in RELEASES]
ONE, OTHER = Cell("Part", "one"), Cell("Part", "other")


def rows(text: str) -> dict[tuple[str, str], list[str]]:
    """The cells of each row of each table, by the heading and the row's name."""
    found, heading = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith(("|  |", "| ---")):
            name, *values = [value.strip() for value in line.strip("|").split("|")]
            found[heading, name] = values
    return found


def declared() -> set[tuple[str, str]]:
    """Every cell that a test of the matrix is marked with."""
    marks = [
        node
        for file in HERE.glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cell"
    ]
    return {(ast.literal_eval(mark.args[0]), ast.literal_eval(mark.args[1])) for mark in marks}


def results(*outcomes: str, reason: str = "") -> Results:
    """Results in which ONE passed everywhere, and OTHER had these outcomes in sid."""
    made = Results()
    for cell in (ONE, OTHER):
        for release in RELEASES:
            made.expect(cell, release)
            if (cell, release) != (OTHER, "sid"):
                made.record(cell, release, "passed", "")
    for outcome in outcomes:
        made.record(OTHER, "sid", outcome, reason)
    return made


@pytest.mark.parametrize(
    ("outcomes", "says"),
    [
        (("passed", "passed", "passed"), "yes"),
        (("passed", "failed", "passed"), "**no**"),
        (("failed",), "**no**"),
        (("passed", "skipped", "passed"), "not tried"),
        (("skipped", "failed"), "**no**"),
    ],
)
def test_cell_says_yes_only_where_all_of_it_passed(outcomes: tuple[str, ...], says: str) -> None:
    text = page(results(*outcomes, reason="no sid today"), COLUMNS, date(2026, 1, 2), "Linux 6.1 on x86_64")
    assert rows(text)["Part", "one"] == ["yes", "yes", "yes"]
    assert rows(text)["Part", "other"] == ["yes", "yes", says]
    assert ("- Debian sid, Part, other: no sid today" in text) == (says == "not tried")
    assert "Tried on 2026-01-02, with Linux 6.1 on x86_64." in text


def test_run_that_left_something_out_is_not_whole() -> None:
    assert results("passed").whole()
    assert results("skipped", reason="why").whole()
    assert not results().whole()
    assert not Results().whole()


def test_page_has_every_cell_of_the_matrix_and_none_failed() -> None:
    cells = {row: values for row, values in rows(PAGE.read_text()).items() if row[0] != "With which versions"}
    assert set(cells) == declared(), "make test-matrix"
    assert {value for values in cells.values() for value in values} <= {"yes", "not tried"}
    assert {len(values) for values in cells.values()} == {len(RELEASES)}


def test_page_says_when_and_with_which_versions() -> None:
    text = PAGE.read_text()
    [day] = re.findall(r"^Tried on (\S+), with Linux \d", text, re.M)
    assert date.fromisoformat(day) >= date(2026, 1, 1)
    versions = rows(text)
    for name in PROGRAMS.values():
        twelve, thirteen, _sid = versions["With which versions", name]
        assert re.match(r"\d", twelve) and re.match(r"\d", thirteen), name


def test_page_has_a_reason_for_whatever_was_not_tried() -> None:
    text = PAGE.read_text()
    for (part, what), values in rows(text).items():
        for name, value in zip(RELEASES.values(), values, strict=True):
            if value == "not tried":
                assert re.search(rf"^- {re.escape(f'{name}, {part}, {what}')}: \S", text, re.M), (part, what)
