"""WORLD. Where log lines go: standard error, as text or as JSON, with journald's priorities.

Standard error (journald, a pipe, a file on a hung disk) may block for any time, and nothing can interrupt the write.
So a separate thread writes, which exists only while there are lines. A caller waits for it as long as a write usually
takes; after a timeout nobody waits until the thread is unblocked. Lines that do not fit into the queue are counted,
and the count is logged.
"""

import json
import logging
import os
import sys
import threading
import time
from collections import deque

# sd-daemon(3): a line that begins with <N> has syslog's priority N.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}

# How long a caller waits for a write.
PATIENCE_S = 0.02
# At the end, so that the last lines are written.
LAST_PATIENCE_S = 0.5

LINES_MAX = 1000


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record).replace("\n", "\n  ")
        if "JOURNAL_STREAM" in os.environ:
            return f"<{_PRIORITIES.get(record.levelno, 3)}>{message}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(record.created))
        return f"{stamp} {record.levelname.lower()}: {message}"


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "message": super().format(record)}
        return json.dumps(line, ensure_ascii=False)


class Patient(logging.Handler):
    """Writes to a descriptor without blocking callers on a slow reader."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._turn = threading.Lock()
        self._written = threading.Condition(self._turn)
        self._writing = False
        self._stuck = False
        # There must be no thread before :meth:`begin`: privileges are dropped first.
        self._held = True

    def emit(self, record: logging.LogRecord) -> None:
        """Queues the line, and waits a moment until it is written."""
        try:
            line = self.format(record).encode(errors="backslashreplace") + b"\n"
        except Exception:
            self.handleError(record)
            return
        with self._turn:
            if len(self._lines) >= LINES_MAX:
                self._lost += 1
                return
            if self._lost:
                self._tell_lost()
            self._lines.append(line)
            if not self._held:
                self._write_soon(PATIENCE_S)

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, 0
        words = f"{lost} log lines were dropped here: standard error was blocked"
        record = logging.LogRecord("busyweight", logging.WARNING, __file__, 0, words, None, None)
        self._lines.append(self.format(record).encode() + b"\n")

    def begin(self) -> None:
        """Threads may be started from now on."""
        with self._turn:
            self._held = False
            self._write_soon(PATIENCE_S)

    def _write_soon(self, patience_s: float) -> None:
        """Called with the lock, which it releases while it waits."""
        if not self._writing and self._lines:
            try:
                threading.Thread(target=self._write, daemon=True).start()
            except RuntimeError:
                return  # no thread can be started; the next line, or the end, retries
            self._writing = True
        if not self._stuck:
            self._stuck = not self._written.wait_for(lambda: not self._writing, patience_s)

    def _write(self) -> None:
        while True:
            with self._turn:
                if not self._lines and self._lost:
                    self._tell_lost()
                if not self._lines:
                    self._writing = self._stuck = False
                    self._written.notify_all()
                    return
                line = self._lines[0]
            try:
                while line:
                    line = line[os.write(self._fd, line) :]
            except BlockingIOError:
                # Another process made the descriptor non-blocking; the rest of the line is retried.
                time.sleep(PATIENCE_S)
                with self._turn:
                    self._lines[0] = line
                continue
            except OSError:
                pass  # a full disk, or the reader is gone
            with self._turn:
                self._lines.popleft()

    def flush(self) -> None:
        """Waits for the queue to drain, but not for ever."""
        with self._turn:
            self._held = self._stuck = False
            self._write_soon(LAST_PATIENCE_S)


_handler: Patient | None = None


def set_up(level: str, form: str) -> None:
    """Logs messages of ``level`` and above, as ``text`` or ``json``. May be called again. At first lines are queued
    until :func:`begin`."""
    global _handler  # noqa: PLW0603 - as standard error and logging's root are
    if _handler is None:
        _handler = Patient(sys.stderr.fileno())
    _handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [_handler]
    root.setLevel(level.upper())
    # An error in logging a line must not end the agent.
    logging.raiseExceptions = False


def begin() -> None:
    """Starts writing lines, on threads."""
    if _handler is not None:
        _handler.begin()


def end() -> None:
    """Waits until the last lines are written, if standard error is not blocked."""
    if _handler is not None:
        _handler.flush()
