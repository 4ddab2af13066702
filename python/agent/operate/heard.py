"""WORLD. The last weights that HAProxy got, kept for the next agent, so that a slow rise continues after a restart.

One small JSON file next to the overrides' file, only if some weight rises slowly. It is written at most once a
second, on a thread, and no poll waits for it; a crash of the machine may lose its newest state. An invalid file means
that nothing is known.
"""

import asyncio
import json
import logging
from contextlib import suppress
from functools import partial
from pathlib import Path

from agent.config.words import os_error
from agent.operate import files
from agent.operate.threads import run_in_thread

log = logging.getLogger("busyweight")

NAME = "heard.json"
VERSION = 1
SIZE_MAX = 64 * 1024

# Minimum time between two writes, and the longest wait for the last one.
GAP_S = 1.0


class HeardFile:
    """The file in ``directory``, which the overrides' state file has created."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._wanted: dict[str, float] | None = None
        self._written: dict[str, float] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None

    def load(self) -> dict[str, float] | None:
        """The weight of each pool in percent; None if the last weights are unknown."""
        try:
            self._written = {}  # differs from everything that :meth:`note` may get
            return _read(self.path)
        except FileNotFoundError:
            self._written = None
            return {}
        except OSError as error:
            why = os_error(error)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            why = f"not a record of weights, version {VERSION}"
        log.warning(
            "%s: %s; the last weight sent to HAProxy is unknown, so weights rise from their floor", self.path, why
        )
        return None

    def note(self, heard: dict[str, float] | None) -> None:
        """HAProxy gets these weights from now on; None if nothing rises slowly, and nothing needs to be kept."""
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
        # The overrides' state file reports problems with the disk.
        with suppress(OSError):
            await run_in_thread(partial(_replace, self.path, heard))
            self._written = heard

    async def close(self) -> None:
        """Waits until the newest state is written, or the disk does not respond."""
        if self._timer:
            self._timer.cancel()
        if self._busy() and self._writing:
            await asyncio.wait({self._writing}, timeout=GAP_S)
        if self._wanted != self._written and not self._busy():
            self._writing = asyncio.get_running_loop().create_task(self._bring(self._wanted))
            await asyncio.wait({self._writing}, timeout=GAP_S)


def _read(path: Path) -> dict[str, float]:
    value = json.loads(files.read(path, SIZE_MAX))
    heard = {str(pool): float(weight) for pool, weight in value["heard"].items()}
    if value["version"] != VERSION or not all(0 <= weight <= 100 for weight in heard.values()):
        raise ValueError
    return heard


def _replace(path: Path, heard: dict[str, float] | None) -> None:
    if heard is None:
        path.unlink(missing_ok=True)
    else:
        files.replace(path, json.dumps({"version": VERSION, "heard": heard}), sync=False)
