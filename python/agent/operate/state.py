"""WORLD. The state file: what outlives the agent.

One small JSON file, replaced whole. Whatever is wrong with it or with its disk is told, and
never ends the agent: a file that cannot be believed is set aside, and a disk that cannot be
written leaves the override in memory.
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

# A disk that has not answered by then is treated as one that refuses.
PATIENCE_S = 2.0


class StateFile:
    """The record's file in ``directory``, which is made.

    ``write_error`` says why the newest record is not on disk, ``load_warning`` what was wrong with the
    file that was found at the start; None where all is well. ``recorded`` is the record
    that the disk has; None while that is not known.
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
        """Makes the directory. Raises OSError if it cannot be made or written."""
        self._make_directory()
        if not os.access(self.directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "it cannot be written")

    def _make_directory(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self) -> PersistedOverride:
        """What the file says. One that cannot be believed is set aside, and says nothing.

        Where there is trouble with the directory already, a file that cannot be read is no news.
        """
        record = PersistedOverride()
        try:
            record = self._read()
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            if self.write_error is None:
                self.load_warning = f"{self.path}: {_why(error)}; {self._set_aside()}; starts without an override"
        self.recorded = record
        return record

    def _read(self) -> PersistedOverride:
        data = files.read(self.path, SIZE_MAX)
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError("not JSON, or not all of it") from None
        if not isinstance(value, dict) or "version" not in value:
            raise ValueError("without a version")
        if value.pop("version") != VERSION:
            raise ValueError(f"of another version than {VERSION}")
        return override.from_value(value)

    def _set_aside(self) -> str:
        aside_path = self.path.with_suffix(".damaged")
        try:
            self.path.replace(aside_path)
        except OSError as error:
            return f"cannot be set aside: {_why(error)}"
        return f"set aside as {aside_path}"

    async def save(self, record: PersistedOverride) -> None:
        """Brings the record to the disk, or says in ``write_error`` why not. Waits for the disk,
        but not for ever; what it takes later is no error any more from then on."""
        self._wanted, self.recorded = record, None
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_newest())
        await asyncio.wait({self._writer}, timeout=PATIENCE_S)
        if self._writer.done():
            self._writer.result()
        else:
            self.write_error = f"{self.directory}: the disk has not answered for {PATIENCE_S:g} s"

    async def _write_newest(self) -> None:
        """One write at a time, until the newest record had its turn: a late one undoes nothing,
        and a disk that hangs costs one thread, whatever is ordered meanwhile."""
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
                # Removing works on a full disk, too.
                self.path.unlink(missing_ok=True)
            else:
                text = json.dumps({"version": VERSION} | override.to_value(record)) + "\n"
                files.replace(self.path, text, sync=True)
            os.fsync(directory)
        finally:
            os.close(directory)


def _why(error: Exception) -> str:
    return os_error(error) if isinstance(error, OSError) else str(error)
