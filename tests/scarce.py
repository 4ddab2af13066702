"""Runs this process short of file descriptors, or of threads."""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """So many more files can be opened, besides those that are closed meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(count + 1)]
    for fd in free:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def no_thread(_: threading.Thread) -> None:
    """Behaves like Thread.start() when the host or the unit allows no more threads."""
    raise RuntimeError("can't start new thread")
