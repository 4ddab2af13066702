"""WORLD. The state file: what must outlive the agent.

One small JSON file, always replaced as a whole. Problems with it or with the disk are reported and never end the
agent: an invalid file is set aside, and if the disk cannot be written, the override stays in memory.
"""

import asyncio
import errno
import json
import os
from functools import partial
from pathlib import Path

from agent.config.words import os_error
from agent.operate import files, override
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
        data = files.read(self.path, SIZE_MAX)
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
                text = json.dumps({"version": VERSION} | override.to_value(record)) + "\n"
                files.replace(self.path, text, sync=True)
            os.fsync(directory)
        finally:
            os.close(directory)


def _why(error: Exception) -> str:
    return os_error(error) if isinstance(error, OSError) else str(error)
