"""WORLD. The agent's own small files: reads them with care, and replaces them atomically.

Anyone with write access to the directory may have put anything there: a FIFO must not block the agent, and a symlink
must not lead it elsewhere. This file does not know what the files contain.
"""

import os
import stat
from pathlib import Path

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def read(path: Path, size_max: int) -> bytes:
    """The file's content. Raises OSError, or ValueError if this cannot be a file of ours; its text says why."""
    fd = os.open(path, os.O_RDONLY | _FLAGS)
    try:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("not a regular file")
        if about.st_uid not in (0, os.geteuid()):
            raise ValueError(f"owned by uid {about.st_uid}, not by root or the agent (uid {os.geteuid()})")
        data = os.read(fd, size_max + 1)
    finally:
        os.close(fd)
    if len(data) > size_max:
        raise ValueError(f"larger than {size_max} bytes")
    if not data:
        raise ValueError("empty")
    return data


def replace(path: Path, text: str, *, sync: bool) -> None:
    """Replaces the file's content atomically. ``sync``: returns once it is on disk. Raises OSError."""
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - from a descriptor
            file.write(text)
            if sync:
                file.flush()
                os.fsync(fd)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
