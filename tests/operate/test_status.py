"""The agent's status matches docs/control.md, field by field."""

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path

from agent._scan import Counts
from agent.operate.status import COUNTS, Status

PAGE = Path(__file__).parents[2] / "docs/control.md"


def fields(of: type) -> Iterator[str]:
    """Every field of a dataclass and of those within it."""
    for name, kind in typing.get_type_hints(of).items():
        yield name
        for inner in (kind, *typing.get_args(kind)):
            if dataclasses.is_dataclass(inner):
                yield from fields(typing.cast(type, inner))


def test_every_field_of_the_status_is_documented() -> None:
    told = re.split(r"^\*\*(?=Overrides|status|workers)", PAGE.read_text(), flags=re.MULTILINE)
    documented = set(re.findall(r"`(\w+)`", told[1] + told[2]))
    assert set(fields(Status)) - documented == set()


def test_every_count_of_a_scan_is_told_under_its_own_name() -> None:
    assert set(COUNTS) == {name for name in vars(Counts) if not name.startswith("_")}
