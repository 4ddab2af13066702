"""What the doctor finds, and what every check may use. Plain values; nothing is opened here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.config.schema import Config
from agent.tools.check import Found

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


@dataclass(frozen=True, slots=True)
class Patient:
    """Everything that the checks use.

    ``status`` and ``workers`` are the running agent's answers on its control socket, see
    docs/control.md; without an agent they are None and empty, and ``silence`` says why.
    ``cores`` are the machine's, and where the number comes from. ``found`` is the doctor's own scan, None if it
    failed: then ``scan_error`` says why. ``wide`` is a second scan that ignores the name filter.
    """

    config: Config
    file: Path
    control: Path
    haproxy_socket: Path | None
    status: dict[str, Any] | None
    silence: str
    workers: Sequence[dict[str, Any]]
    cores: tuple[int, str]
    found: Found | None
    wide: Found | None
    scan_error: str

    @property
    def seen_by_agent(self) -> bool | None:
        """Whether the running agent sees processes; None if that is unknown."""
        sample = self.status and self.status["sample"]
        return bool(sample["visible"]) if sample else None

    @property
    def seen_by_us(self) -> bool:
        """Whether the doctor itself sees them."""
        return self.found is not None and self.found.snapshot.visible


def pool_title(name: str) -> str:
    """The prefix of a text about one pool; empty for the default pool."""
    return f"pool {name}: " if name else ""


def listed(items: Sequence[object], most: int = 5) -> str:
    """``a, b, c and 4 more``."""
    shown = ", ".join(str(item) for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")
