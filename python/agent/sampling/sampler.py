"""Drives one scanner from the event loop: starts scans, monitors them, and takes their results.

It knows no weights and no sockets, and never waits for a scan.
"""

import asyncio
from collections.abc import Callable

from agent._scan import Scanner, Snapshot

# How often a running scan is checked; a reader that hangs is abandoned then.
NUDGE_S = 0.03
# The same for a scan in which there is nothing to abandon.
NUDGE_S_MAX = 1.0


class Sampler:
    """``ended`` is called with the snapshot, or with None and the reason."""

    def __init__(self, scanner: Scanner, ended: Callable[[Snapshot | None, str], None]) -> None:
        self.scanner = scanner
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(scanner.event_fd, self._take)
        self._nudge: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Starts a scan."""
        self.scanner.start()
        self._nudge = self._loop.call_later(NUDGE_S, self._look_after, NUDGE_S)

    def _look_after(self, period_s: float) -> None:
        # When no more readers may be abandoned, there is no need to check often.
        period_s = NUDGE_S if self.scanner.nudge() else min(2 * period_s, NUDGE_S_MAX)
        self._nudge = self._loop.call_later(period_s, self._look_after, period_s)

    def _take(self) -> None:
        try:
            snapshot, why = self.scanner.take(), ""
        except RuntimeError as error:
            snapshot, why = None, str(error)
        if snapshot is None and not why:
            return
        if self._nudge:
            self._nudge.cancel()
        self._ended(snapshot, why)

    def close(self) -> None:
        """Stops it. A running scan ends by itself, and its result is ignored."""
        self._loop.remove_reader(self.scanner.event_fd)
        if self._nudge:
            self._nudge.cancel()
