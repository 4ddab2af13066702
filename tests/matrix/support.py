"""The support page, made only from the results of the matrix.

Pure: results in, text out. A cell that was not tried, or that failed, must never be shown as working.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

RELEASES = {"bookworm": "Debian 12", "trixie": "Debian 13", "sid": "Debian sid"}
PROGRAMS = {
    "debian": "Debian",
    "systemd": "systemd",
    "python": "Python",
    "ruby": "Ruby",
    "sidekiq": "Sidekiq",
    "redis": "Redis",
    "haproxy": "HAProxy",
    "postgres": "PostgreSQL",
    "rq": "rq",
}

HEAD = """\
# What it was tried on

Made by `make test-matrix`, never by hand: each cell is a test that ran in a Debian of that release, with the packages
that `make dist` makes and the programs that this release has (HAProxy 3.4 is the one of Debian's experimental, in sid).

Tried on {day}, with {machine}. A cell says **yes** where all its tests passed, **no** where one failed.
"""

FOOT = """
Resque is not in Debian. Its titles, and those of Faktory, are tried as texts alone (`rust/title.rs`, `tests/titles/`).

## Known not to work

Free-threaded Python (3.14t): the wheels are for the stable ABI of all Pythons from 3.11 on, which free-threaded ones
do not have, so pip refuses it there.
"""


class Cell(NamedTuple):
    """One row of the page: the part that is tried, and what of it."""

    part: str
    what: str


@dataclass(frozen=True)
class Column:
    """A release, and the versions of its programs; none where there is no such Debian today."""

    release: str
    versions: dict[str, str]


@dataclass
class Results:
    """What came of each cell in each release: its outcomes, and why one was skipped."""

    outcomes: dict[tuple[Cell, str], set[str]] = field(default_factory=dict)
    reasons: dict[tuple[Cell, str], str] = field(default_factory=dict)

    def expect(self, cell: Cell, release: str) -> None:
        """This cell will be tried."""
        self.outcomes.setdefault((cell, release), set())

    def record(self, cell: Cell, release: str, outcome: str, reason: str) -> None:
        """One phase of one of its tests is over."""
        self.outcomes.setdefault((cell, release), set()).add(outcome)
        if outcome == "skipped":
            self.reasons[cell, release] = reason

    def whole(self) -> bool:
        """Whether all that was expected was tried, in every release."""
        cells = {cell for cell, _ in self.outcomes}
        return bool(cells) and all(self.outcomes.get((cell, release)) for cell in cells for release in RELEASES)

    def cells(self) -> list[Cell]:
        """The rows, in the order of the tests."""
        return list(dict.fromkeys(cell for cell, _ in self.outcomes))

    def says(self, cell: Cell, release: str) -> str:
        """What the page says in one place."""
        outcomes = self.outcomes[cell, release]
        if "failed" in outcomes:
            return "**no**"
        return "not tried" if "skipped" in outcomes else "yes"


def page(results: Results, columns: Iterable[Column], day: date, machine: str) -> str:
    """The page, in Markdown."""
    columns = list(columns)
    lines = [HEAD.format(day=day.isoformat(), machine=machine), "## With which versions", ""]
    lines += table(
        columns,
        [(name, [column.versions.get(key, "-") for column in columns]) for key, name in PROGRAMS.items()],
    )
    cells = results.cells()
    for part in dict.fromkeys(cell.part for cell in cells):
        lines += ["", f"## {part}", ""]
        rows = [cell for cell in cells if cell.part == part]
        lines += table(
            columns, [(cell.what, [results.says(cell, column.release) for column in columns]) for cell in rows]
        )
    lines += ["", "## Not tried", "", *(untried(results) or ["Nothing: every cell was."])]
    return "\n".join(lines) + "\n" + FOOT


def table(columns: list[Column], rows: list[tuple[str, list[str]]]) -> list[str]:
    """The lines of a table with a column for each release."""
    head = ["", *(RELEASES[column.release] for column in columns)]
    lines = [head, ["---"] * len(head), *([name, *values] for name, values in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def untried(results: Results) -> list[str]:
    """Why, for each cell that was skipped."""
    return [
        f"- {RELEASES[release]}, {cell.part}, {cell.what}: {reason}"
        for (cell, release), reason in results.reasons.items()
        if results.says(cell, release) == "not tried"
    ]
