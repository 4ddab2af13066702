"""WORLD. Asks the running agent over its control socket, see docs/control.md."""

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from agent.config import paths
from agent.config.words import os_error

VERSION = 1

# A slow disk may delay the answer to a command.
TIMEOUT_S = 10.0

ANSWER_LEN_MAX = 64 * 1024 * 1024


class ClientError(Exception):
    """There is no answer, or the command was refused. The text says why, on one line."""


def ask(path: Path, command: str, **words: object) -> dict[str, Any]:
    """The answer to one command; arguments that are None are left out. Raises ClientError."""
    request = {"version": VERSION, "command": command} | {k: v for k, v in words.items() if v is not None}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT_S)
            with paths.short_name(path) as name:
                connection.connect(name)
            # The agent may refuse before it reads the request; its reason can still be read.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(json.dumps(request).encode() + b"\n")
            line = _line(connection)
    except OSError as error:
        raise ClientError(_remedy(path, error)) from None
    return _checked(path, line)


def _line(connection: socket.socket) -> bytes:
    line = bytearray()
    deadline_s = time.monotonic() + TIMEOUT_S
    while not line.endswith(b"\n") and len(line) < ANSWER_LEN_MAX:
        connection.settimeout(max(0.001, deadline_s - time.monotonic()))
        data = connection.recv(65536)
        if not data:
            break
        line += data
    return bytes(line)


def _checked(path: Path, line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
        version, ok = answer["version"], answer["ok"]
    except (ValueError, TypeError, KeyError):
        what = "nothing" if not line else "something other than the control protocol"
        raise ClientError(f"{path}: answered {what}; is it the control socket of busyweight?") from None
    if version != VERSION:
        raise ClientError(f"{path}: the agent speaks version {version} of the protocol, this command {VERSION}")
    if not ok:
        raise ClientError(str(answer.get("error", "refused without giving a reason")))
    return dict(answer)


def _remedy(path: Path, error: OSError) -> str:
    start = "start it: make run" if path.parent == paths.tryout() else "see systemctl status busyweight"
    if isinstance(error, FileNotFoundError):
        return f"no agent at {path}: it is not running, or uses another --control; {start}"
    if isinstance(error, ConnectionRefusedError):
        return f"no agent at {path}: the one that created this socket is gone; {start}"
    if isinstance(error, TimeoutError):
        return f"the agent at {path} does not answer within {TIMEOUT_S:g} s; it may be stopped or hung"
    return f"cannot reach the agent at {path}: {os_error(error)}"


def sudo_user() -> str | None:
    """On whose behalf root acts, according to sudo(8)."""
    return os.environ.get("SUDO_USER") if os.geteuid() == 0 else None
