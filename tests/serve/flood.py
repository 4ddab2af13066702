"""Polls as fast as possible."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.farm import compile_c

POLLER = Path(__file__).parents[2] / "benches/polls/poller.c"


@contextmanager
def flood(port: int, at_once: int) -> Iterator[None]:
    """127.0.0.1 polls as fast as it can, that many times at once."""
    words = [str(compile_c("poller", [POLLER])), str(port), str(at_once), "600"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        try:
            yield
            assert process.poll() is None, "the flood ended by itself"
        finally:
            process.kill()
