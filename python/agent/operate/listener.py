"""WORLD. Watches a listening socket for the event loop, and leaves one alone for a while that cannot accept now.

It accepts nothing itself, and knows nothing of those who connect. It is in `operate`, though `serve` uses it as well.
"""

import asyncio
import socket
from collections.abc import Callable


class ListenerWatch:
    """Calls ``accept`` on the event loop while somebody waits at ``listener``, from :meth:`start` to :meth:`stop`.

    After :meth:`back_off` it does not, for ``pause_s``: where no descriptor is free, say, it would spin. Nor does it
    where the kernel has no room for one more watch; that is tried again.
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
        """Whether it is left alone for a while."""
        return self._pause is not None

    def start(self) -> None:
        """From now on, or from the end of a pause on."""
        self._wanted = True
        if self._pause is None:
            try:
                self._loop.add_reader(self._listener.fileno(), self._accept)
            except OSError:
                self.back_off()

    def stop(self) -> None:
        """Until it is started again."""
        self._wanted = False
        self._loop.remove_reader(self._listener.fileno())

    def back_off(self) -> None:
        """It cannot accept now."""
        self._loop.remove_reader(self._listener.fileno())
        if self._pause is None:
            self._pause = self._loop.call_later(self._pause_s, self._over)

    def _over(self) -> None:
        self._pause = None
        if self._wanted:
            self.start()

    def close(self) -> None:
        """For good; to be called before the socket is closed, since somebody may hold a duplicate of that."""
        self.stop()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
