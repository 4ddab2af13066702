"""PURE. What the doctor finds: one line for each check, and the words for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: how one check ended, what was found, and what to do about it."""

    state: State
    check: str
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f" -> {self.remedy}" if self.remedy else ""
        return f"{self.state:<4}  {self.check}: {self.what}{remedy}"


def listed(items: Sequence[object], most: int = 5) -> str:
    """``a, b, c and 4 more``."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")
