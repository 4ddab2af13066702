"""Where the state and the operators' socket are, for the agent and for those who ask it."""

import os
from collections.abc import Mapping
from pathlib import Path


def state_directory(option: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """``--state``, else systemd's STATE_DIRECTORY, else ``/var/lib/busyweight``."""
    return Path(option or _first(environ.get("STATE_DIRECTORY")) or "/var/lib/busyweight")


def control_socket(option: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """``--control``, else in systemd's RUNTIME_DIRECTORY, else in ``/run/busyweight``."""
    return Path(option or Path(_first(environ.get("RUNTIME_DIRECTORY")) or "/run/busyweight", "control.sock"))


def _first(directories: str | None) -> str:
    # systemd.exec(5): several are separated by colons.
    return (directories or "").partition(":")[0]
