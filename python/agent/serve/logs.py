"""WORLD. Where log lines go: standard error, as text or as JSON, with journald's priorities."""

import json
import logging
import os
import sys
import time

# sd-daemon(3): a line that begins with <N> has syslog's priority N.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


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


def set_up(level: str, form: str) -> None:
    """Logs from ``level`` on, as ``text`` or ``json``. May be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A full disk or a closed pipe behind standard error must not end the agent.
    logging.raiseExceptions = False
