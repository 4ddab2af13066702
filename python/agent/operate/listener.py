"""WORLD. Watches a listening socket on the event loop, and pauses while connections cannot be accepted.

It accepts nothing itself, and knows nothing about the clients. It is in `operate`, although `serve` uses it too,
because `operate` may not import `serve`.
"""

import asyncio
import socket
from collections.abc import Callable


class ListenerWatch:
    """Calls ``accept`` on the event loop while a connection waits on ``listener``, from :meth:`start` to :meth:`stop`.

    After :meth:`back_off` it pauses for ``pause_s``: without a free descriptor, for example, the loop would spin. If
    the kernel has no room for another watch, it tries again after the same pause.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket, accept: Callable[[], object], pause_s: float
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._accept = accept
        self._pause_s = pause_s
        self._wanted = False
        self._pause: asyncio.TimerHandle | None = None

    @property
    def backing_off(self) -> bool:
        """Whether the listener is paused."""
        return self._pause is not None

    def start(self) -> None:
        """Watches from now on, or from the end of the pause."""
        self._wanted = True
        if self._pause is None:
            try:
                self._loop.add_reader(self._listener.fileno(), self._accept)
            except OSError:
                self.back_off()

    def stop(self) -> None:
        """Stops watching until the next :meth:`start`."""
        self._wanted = False
        self._loop.remove_reader(self._listener.fileno())

    def back_off(self) -> None:
        """Pauses, because no connection can be accepted now."""
        self._loop.remove_reader(self._listener.fileno())
        if self._pause is None:
            self._pause = self._loop.call_later(self._pause_s, self._over)

    def _over(self) -> None:
        self._pause = None
        if self._wanted:
            self.start()

    def close(self) -> None:
        """Stops for good. Must be called before the socket is closed: another process may hold a duplicate."""
        self.stop()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
