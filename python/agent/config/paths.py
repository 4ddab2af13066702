"""Where the state directory and the control socket are, for the agent and for its clients."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

# `make run` creates this directory in its checkout's virtual environment. If it exists, this environment's commands
# use it instead of the system's directories; an installation never has it.
TRYOUT = "busyweight-run"

# sockaddr_un.sun_path, unix(7), with the null byte at its end.
SUN_PATH_LEN = 108


def state_directory(option: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """``--state``, else systemd's STATE_DIRECTORY, else ``/var/lib/busyweight``."""
    return Path(option or _first(environ.get("STATE_DIRECTORY")) or tryout() or "/var/lib/busyweight")


def control_socket(option: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """``--control``, else in systemd's RUNTIME_DIRECTORY, else in ``/run/busyweight``."""
    directory = _first(environ.get("RUNTIME_DIRECTORY")) or tryout() or "/run/busyweight"
    return Path(option or Path(directory, "control.sock"))


def tryout() -> Path | None:
    """The directory of `make run`, if this command runs from a checkout that has one."""
    directory = Path(sys.prefix, TRYOUT)
    # Not Path.is_dir, which raises an error if it may not look.
    return directory if sys.prefix != sys.base_prefix and os.path.isdir(directory) else None  # noqa: PTH112


@contextlib.contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name for this socket that fits into a socket address, however long its path is. Raises OSError."""
    if len(os.fsencode(path)) < SUN_PATH_LEN:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _first(directories: str | None) -> str:
    # systemd.exec(5): several are separated by colons.
    return (directories or "").partition(":")[0]
