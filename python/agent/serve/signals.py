"""WORLD. The signals that end the agent or have it reload, heeded from the moment there is an event loop.

They are blocked from the first line on (__main__.py), and let through here, so none is lost and
none ends the process without a last word.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

# For what a last word needs: a configuration says where and to whom.
PATIENCE_S = 3.0


class StoppedError(Exception):
    """A signal to end came before there was anything to end."""


class Signals:
    """``stop`` is set by the first signal that ends, ``at_once`` by the second. ``restart`` tells
    that it was systemd's RestartKillSignal: another agent is meant to follow.

    ``reload`` is called at each SIGHUP; one that came before it was set is called when it is.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()
        self.restart = False
        self._reload: Callable[[], None] | None = None
        self._reload_came = False
        heeded = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGUSR1: self._restart,
            signal.SIGHUP: self._hang_up,
        }
        for number, heed in heeded.items():
            loop.add_signal_handler(number, heed)
        # Whoever started the agent may have blocked them, too.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, heeded)

    def on_reload(self, reload: Callable[[], None]) -> None:
        """Who reloads from now on."""
        self._reload = reload
        if self._reload_came:
            self._reload_came = False
            reload()

    async def wait(self, event: asyncio.Event, timeout_s: float) -> None:
        """For an event, a signal to end, or the time."""
        waits = {asyncio.ensure_future(each.wait()) for each in (event, self.stop)}
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def unless_stopped(self, work: Awaitable[T]) -> T:
        """The result of the work, which a first signal to end gives a little time. Raises StoppedError
        if that is over."""
        working = asyncio.ensure_future(work)
        for signalled, patience_s in ((self.stop, None), (self.at_once, PATIENCE_S)):
            waiting = asyncio.ensure_future(signalled.wait())
            await asyncio.wait({working, waiting}, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        if not working.done():
            working.cancel()
            raise StoppedError
        return working.result()

    def _stop(self) -> None:
        if self.stop.is_set():
            self.at_once.set()
        self.stop.set()

    def _restart(self) -> None:
        self.restart = self.restart or not self.stop.is_set()
        self._stop()

    def _hang_up(self) -> None:
        if self._reload is None:
            self._reload_came = True
        else:
            self._reload()
