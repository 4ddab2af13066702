"""WORLD. The terminal: uses its alternate screen and reads single keys, and restores everything, however it ends."""

import os
import select
import signal
import sys
import termios
import time
import tty
from types import FrameType, TracebackType
from typing import Any, Self

from rich.console import Console, ConsoleDimensions, RenderableType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KEYS_THAT_END = {b"q", b"Q"}


class NoTerminalError(Exception):
    """There is no terminal for a live view."""


class _Ended(BaseException):
    """A stop signal came during a wait."""


class Terminal:
    """The whole screen, while it is open. Ctrl-Z restores it for as long as the view is stopped."""

    def __init__(self) -> None:
        self._console = Console()
        if not (sys.stdin.isatty() and sys.stdout.isatty()) or self._console.is_dumb_terminal:
            raise NoTerminalError("top needs a terminal; busyweight top --once prints one frame anywhere")
        self._keys = sys.stdin.fileno()
        self._found = termios.tcgetattr(self._keys)
        self._handlers: dict[int, Any] = {}
        self._screen: RenderableType | None = None
        self._ended = False
        self._waiting = False
        self._woken, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._former_wake = -1

    def __enter__(self) -> Self:
        for number in (*ENDING, signal.SIGTSTP, signal.SIGWINCH):
            self._handlers[number] = signal.signal(number, self._signalled)
        self._former_wake = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        self._waiting = False
        self._give_back()
        signal.set_wakeup_fd(self._former_wake)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._woken)
        os.close(self._wake)
        return kind is _Ended

    def show(self, screen: RenderableType) -> None:
        """Draws it now, and again when the screen's size changes."""
        self._screen = screen
        self._draw()

    def wait(self, seconds: float) -> bool:
        """Waits, and returns whether to continue. A stop signal that comes later, while the caller waits for
        something else, ends that wait."""
        end_s = time.monotonic() + seconds
        self._waiting = False
        while not self._ended:
            readable, _, _ = select.select([self._keys, self._woken], [], [], max(0.0, end_s - time.monotonic()))
            if not readable:
                break
            if self._woken in readable:
                self._heed(os.read(self._woken, 512))
            if self._keys in readable and self._key_ends():
                return False
        self._waiting = True
        return not self._ended

    def _key_ends(self) -> bool:
        # No data: the terminal is gone.
        key = os.read(self._keys, 1)
        return not key or key in KEYS_THAT_END

    def _heed(self, numbers: bytes) -> None:
        """Handles signals here, where nothing is half drawn."""
        if signal.SIGTSTP in numbers:
            self._give_back()
            handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, handler)
            self._take()
        if not self._ended:
            self._draw()

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if number in ENDING:
            self._ended = True
            if self._waiting:
                raise _Ended

    def _take(self) -> None:
        tty.setcbreak(self._keys, termios.TCSANOW)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _give_back(self) -> None:
        try:
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
        finally:
            termios.tcsetattr(self._keys, termios.TCSANOW, self._found)

    def _draw(self) -> None:
        if self._screen is None:
            return
        waiting, self._waiting = self._waiting, False
        # The terminal's own size, whatever COLUMNS and LINES in the environment say; 0 means unknown.
        width, height = os.get_terminal_size(sys.stdout.fileno())
        self._console.size = ConsoleDimensions(width or 80, height or 24)
        # In one write, from the top left corner: what stays the same does not flicker.
        with self._console.capture() as drawn:
            self._console.print(self._screen, end="")
        lines = drawn.get().rstrip("\n").split("\n")[: self._console.height]
        sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines).removesuffix("\n") + "\x1b[J")
        sys.stdout.flush()
        self._waiting = waiting
