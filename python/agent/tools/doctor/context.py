"""What every check may use. Plain values; nothing is opened here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config.schema import Config
from agent.tools.check import Found


@dataclass(frozen=True, slots=True)
class CheckContext:
    """Everything that the checks use.

    ``status`` and ``workers`` are the running agent's answers on its control socket, see
    docs/control.md; without an agent they are None and empty, and ``no_answer`` says why.
    ``cores`` are the machine's, and where the number comes from. ``found`` is the doctor's own scan, None if it
    failed: then ``scan_error`` says why. ``wide`` is a second scan that ignores the name filter.
    """

    config: Config
    file: Path
    control: Path
    haproxy_socket: Path | None
    status: dict[str, Any] | None
    no_answer: str
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
