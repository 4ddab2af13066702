"""WORLD. The state file: what must outlive the agent.

One small JSON file, always replaced as a whole. Problems with it or with the disk are reported and never end the
agent: an invalid file is set aside, and if the disk cannot be written, the override stays in memory.
"""

import asyncio
import errno
import json
import os
import stat
from functools import partial
from pathlib import Path

from agent.operate import override
from agent.operate.override import PersistedOverride
from agent.operate.threads import run_in_thread

NAME = "override.json"
VERSION = 1
SIZE_MAX = 64 * 1024

# A disk that has not responded by then is treated as one that fails.
PATIENCE_S = 2.0


class StateFile:
    """The record's file in ``directory``, which it creates.

    ``write_error`` says why the newest record is not on disk, ``load_warning`` what was wrong with the file found at
    the start; None if all is well. ``recorded`` is the record on disk; None while that is unknown.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / NAME
        self.write_error: str | None = None
        self.load_warning: str | None = None
        self.recorded: PersistedOverride | None = None
        self._wanted = PersistedOverride()
        self._writer: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Creates the directory. Raises OSError if it cannot be created or written."""
        self._make_directory()
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable")

    def _make_directory(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self) -> PersistedOverride:
        """The record in the file. An invalid file is set aside and counts as empty.

        If there is a problem with the directory already, an unreadable file is not reported again.
        """
        record = PersistedOverride()
        try:
            record = self._read()
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            if self.write_error is None:
                self.load_warning = f"{self.path}: {_why(error)}; {self._set_aside()}; starting without an override"
        self.recorded = record
        return record

    def _read(self) -> PersistedOverride:
        # A FIFO or a symlink in its place must neither block nor lead elsewhere.
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                raise ValueError("not a regular file")
            if about.st_uid not in (0, os.geteuid()):
                raise ValueError(f"owned by uid {about.st_uid}, not by root or the agent (uid {os.geteuid()})")
            data = os.read(fd, SIZE_MAX + 1)
        finally:
            os.close(fd)
        if len(data) > SIZE_MAX:
            raise ValueError(f"larger than {SIZE_MAX} bytes")
        if not data:
            raise ValueError("empty")
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError("not valid JSON, or truncated") from None
        if not isinstance(value, dict) or "version" not in value:
            raise ValueError("it has no version")
        if value.pop("version") != VERSION:
            raise ValueError(f"not version {VERSION}")
        return override.from_value(value)

    def _set_aside(self) -> str:
        aside_path = self.path.with_suffix(".damaged")
        try:
            self.path.replace(aside_path)
        except OSError as error:
            return f"cannot be set aside: {_why(error)}"
        return f"set aside as {aside_path}"

    async def save(self, record: PersistedOverride) -> None:
        """Writes the record to disk, or sets ``write_error``. Waits for the disk for a limited time; if the write
        succeeds later, the error is cleared then."""
        self._wanted, self.recorded = record, None
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_newest())
        await asyncio.wait({self._writer}, timeout=PATIENCE_S)
        if self._writer.done():
            self._writer.result()
        else:
            self.write_error = f"{self.directory}: the disk has not responded for {PATIENCE_S:g} s"

    async def _write_newest(self) -> None:
        """One write at a time, until the newest record is written: a late write never overwrites a newer record, and
        a hung disk costs one thread, however many overrides come meanwhile."""
        written = None
        while written is not self._wanted:
            written = self._wanted
            try:
                await run_in_thread(partial(self._write, written))
            except OSError as error:
                self.write_error = f"{self.directory}: {_why(error)}"
            else:
                if written is self._wanted:
                    self.recorded, self.write_error = written, None

    def _write(self, record: PersistedOverride) -> None:
        self._make_directory()
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if record == PersistedOverride():
                # Removing the file works even on a full disk.
                self.path.unlink(missing_ok=True)
            else:
                self._replace(record)
            os.fsync(directory)
        finally:
            os.close(directory)

    def _replace(self, record: PersistedOverride) -> None:
        new = self.path.with_suffix(".new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - of a descriptor
                json.dump({"version": VERSION} | override.to_value(record), file)
                file.write("\n")
                file.flush()
                os.fsync(fd)
            new.replace(self.path)
        except OSError:
            new.unlink(missing_ok=True)
            raise


def _why(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
