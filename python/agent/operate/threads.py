"""Runs work that may take long on a separate thread, so that polls do not wait for it.

Each piece of work has its own short-lived thread: in quiet times there are none, and one that hangs (a dead disk)
does not keep the agent from exiting.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NoThreadError(OSError):
    """The work cannot start: the host or the unit does not allow another thread."""


def run_in_thread(work: Callable[[], T]) -> "asyncio.Future[T]":
    """Starts the work. Its result, or its exception, comes to the event loop. Raises NoThreadError."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None is a T where work returns None

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # handed on
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile; nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError:
        raise NoThreadError("cannot start a thread") from None
    return future
