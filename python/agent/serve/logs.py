"""WORLD. Where log lines go: standard error, as text or as JSON, with journald's priorities.

Whoever is behind standard error (journald, a pipe, a file on a hung disk) may not take what is
written, for any time, and nothing can interrupt the write. So it has a thread of its own, which is there
only while there are lines. Who logs waits for it as long as it usually takes; once that was in vain,
nobody waits until it is back. What does not fit into the queue is counted, and the count is told.
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

# A write that takes longer is not waited for.
PATIENCE_S = 0.02
# At the end, so that the last words are read.
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
    """Writes to a descriptor without making anybody wait for whoever reads there."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._lost = 0
        self._turn = threading.Lock()
        self._written = threading.Condition(self._turn)
        self._writing = False
        self._stuck = False
        # Until :meth:`begin` there must be no thread: privileges are given up before.
        self._held = True

    def emit(self, record: logging.LogRecord) -> None:
        """Queues the line, and has it written if that is soon done."""
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
        """With the lock, which it gives away while it waits."""
        if not self._writing and self._lines:
            try:
                threading.Thread(target=self._write, daemon=True).start()
            except RuntimeError:
                return  # no thread is to be had; the next line, or the end, tries again
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
                time.sleep(PATIENCE_S)  # somebody made it so; what is left of the line comes again
                with self._turn:
                    self._lines[0] = line
                continue
            except OSError:
                pass  # a full disk, or nobody is there any more
            with self._turn:
                self._lines.popleft()

    def flush(self) -> None:
        """Waits for what is queued, but not for ever."""
        with self._turn:
            self._held = self._stuck = False
            self._write_soon(LAST_PATIENCE_S)


_handler: Patient | None = None


def set_up(level: str, form: str) -> None:
    """Logs from ``level`` on, as ``text`` or ``json``. May be called again. The first time, lines are kept
    until :func:`begin`."""
    global _handler  # noqa: PLW0603 - as standard error and logging's root are
    if _handler is None:
        _handler = Patient(sys.stderr.fileno())
    _handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [_handler]
    root.setLevel(level.upper())
    # What is wrong with a line of the log must not end the agent.
    logging.raiseExceptions = False


def begin() -> None:
    """Lines are written from now on, on threads."""
    if _handler is not None:
        _handler.begin()


def end() -> None:
    """The last lines are written, if anybody takes them."""
    if _handler is not None:
        _handler.flush()
