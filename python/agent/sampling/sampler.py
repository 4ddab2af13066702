"""Drives one scanner from the event loop: starts scans, monitors them, and takes their results.

It knows no weights and no sockets, and never waits for a scan. If the kernel has no room for
a watch on the end of a scan, it polls for it.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

from agent._scan import Scanner, Snapshot

# How often a running scan is checked; a reader that hangs is detached then.
LOOK_S = 0.03
# The same for a scan in which there is nothing to detach.
LOOK_S_MAX = 1.0


class Sampler:
    """``ended`` is called with the snapshot, or with None and the reason."""

    def __init__(self, scanner: Scanner, ended: Callable[[Snapshot | None, str], None]) -> None:
        self.scanner = scanner
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._next_look: asyncio.TimerHandle | None = None
        self._watched = False
        self._watch()

    def start(self) -> None:
        """Starts a scan."""
        if not self._watched:
            self._watch()
        self.scanner.start()
        self._next_look = self._loop.call_later(LOOK_S, self._look_after, LOOK_S)

    def _watch(self) -> None:
        # The kernel may have no room for one more watch (ENOSPC, ENOMEM); the next scan tries again.
        with suppress(OSError):
            self._loop.add_reader(self.scanner.event_fd, self._take)
            self._watched = True

    def _look_after(self, period_s: float) -> None:
        # When no more readers may be detached, there is no need to check often.
        hurry = self.scanner.check_deadline() or not self._watched
        period_s = LOOK_S if hurry else min(2 * period_s, LOOK_S_MAX)
        self._next_look = self._loop.call_later(period_s, self._look_after, period_s)
        if not self._watched:
            self._take()

    def _take(self) -> None:
        try:
            snapshot, why = self.scanner.take(), ""
        except RuntimeError as error:
            snapshot, why = None, str(error)
        if snapshot is None and not why:
            return
        if self._next_look:
            self._next_look.cancel()
        self._ended(snapshot, why)

    def close(self) -> None:
        """Stops it. A running scan ends by itself, and its result is ignored."""
        self._loop.remove_reader(self.scanner.event_fd)
        if self._next_look:
            self._next_look.cancel()
