"""WORLD. What HAProxy heard last, kept for the next agent, so that a slow rise goes on over a restart.

One small JSON file beside the overrides', only where some weight rises slowly. It is written at most
once a second, on a thread, and never waited for by a poll; a crash of the machine may cost its newest
state. A file that cannot be believed means that nothing is known.
"""

import asyncio
import json
import logging
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from agent.operate.threads import run_in_thread

log = logging.getLogger("busyweight")

NAME = "heard.json"
VERSION = 1
SIZE_MAX = 64 * 1024

# Never two writes closer than this; and the last one is waited for no longer.
GAP_S = 1.0


class HeardFile:
    """The file in ``directory``, which whoever keeps the overrides has made."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._wanted: dict[str, float] | None = None
        self._written: dict[str, float] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def load(self) -> dict[str, float] | None:
        """The weight of each pool in percent; None if it is not known what was said."""
        try:
            self._written = {}  # something else than what will be wanted
            return _read(self.path)
        except FileNotFoundError:
            self._written = None
            return {}
        except OSError as error:
            why = (error.strerror or str(error)).lower()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            why = f"not a record of weights, version {VERSION}"
        log.warning(
            "%s: %s; the last weight sent to HAProxy is unknown, so weights rise from their floor", self.path, why
        )
        return None

    def note(self, heard: dict[str, float] | None) -> None:
        """This is what HAProxy hears from now on; None where nothing rises slowly, and nothing is kept."""
        self._wanted = heard
        if heard != self._written and self._timer is None and not self._busy():
            self._write()

    def _busy(self) -> bool:
        return self._writing is not None and not self._writing.done()

    def _write(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(GAP_S, self._again)
        self._writing = loop.create_task(self._bring(self._wanted))

    def _again(self) -> None:
        self._timer = None
        if self._wanted != self._written and not self._busy():
            self._write()

    async def _bring(self, heard: dict[str, float] | None) -> None:
        # Whoever keeps the overrides tells of the disk's trouble.
        with suppress(OSError):
            await run_in_thread(partial(_replace, self.path, heard))
            self._written = heard

    async def close(self) -> None:
        """The newest state is on its way to the disk, or the disk does not answer."""
        if self._timer:
            self._timer.cancel()
        if self._busy() and self._writing:
            await asyncio.wait({self._writing}, timeout=GAP_S)
        if self._wanted != self._written and not self._busy():
            self._writing = asyncio.get_running_loop().create_task(self._bring(self._wanted))
            await asyncio.wait({self._writing}, timeout=GAP_S)


def _read(path: Path) -> dict[str, float]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:  # noqa: PTH123 - of a descriptor
        value = json.loads(file.read(SIZE_MAX))
    heard = {str(pool): float(weight) for pool, weight in value["heard"].items()}
    if value["version"] != VERSION or not all(0 <= weight <= 100 for weight in heard.values()):
        raise ValueError
    return heard


def _replace(path: Path, heard: dict[str, float] | None) -> None:
    if heard is None:
        path.unlink(missing_ok=True)
        return
    new = path.with_suffix(".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123 - of a descriptor
        json.dump({"version": VERSION, "heard": heard}, file)
    new.replace(path)
