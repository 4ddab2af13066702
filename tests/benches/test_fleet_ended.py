"""The fleet bench ended by a signal in the midst of a run: it ends by itself, and all that it started with it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.missing import need, need_module
from tests.real.parts import until

need_module("matplotlib", ".venv/bin/.bench")

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 90.0


def processes_with(variable: bytes) -> list[str]:
    """The command lines of those that have it in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if variable in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory with a short name, for sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="ended-") as directory:
        yield Path(directory)


# The bench, which is ended at the worst moment: it waits for its model, and has just taken the lock for that.
AT_THE_WORST_MOMENT = """
import os, signal, sys
from benches.fleet import __main__ as bench, run

class Lock:
    def __init__(self, lock):
        self.lock, self.release, self.told = lock, lock.release, False
    def acquire(self, blocking=True):
        taken = self.lock.acquire(blocking)
        if not self.told:
            self.told = True
            os.kill(os.getpid(), signal.SIGTERM)
        return taken
    def __enter__(self):
        self.lock.acquire()
    def __exit__(self, *_):
        self.lock.release()

until_end = run._Watch.until_end
def told(watch, model, look_every_s):
    model._waitpid_lock = Lock(model._waitpid_lock)
    return until_end(watch, model, look_every_s)
run._Watch.until_end = told
sys.exit(bench.main())
"""


@contextmanager
def benching(scratch: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """The bench, until it has ended; afterwards no process and no file of it is there."""
    need("haproxy", "haproxy")
    environ = os.environ | {"TMPDIR": str(scratch)}
    argv = [sys.executable, *words, "--small"]
    with subprocess.Popen(
        argv, env=environ, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as bench:
        try:
            yield bench
            _, said = bench.communicate(timeout=DEADLINE_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(bench.pid, signal.SIGKILL)
    assert bench.returncode == 1, said
    assert "Traceback" not in said
    assert processes_with(f"TMPDIR={scratch}".encode()) == []
    assert list(scratch.iterdir()) == []


def test_ended_at_the_worst_moment_it_ends(scratch: Path) -> None:
    with benching(scratch, "-c", AT_THE_WORST_MOMENT):
        pass


def test_ended_twice_with_all_that_it_started_it_ends(scratch: Path) -> None:
    with benching(scratch, "-m", "benches.fleet") as bench:
        until(lambda: any(scratch.glob("fleet-*/seven/run.hosts")), "a run has begun", DEADLINE_S)
        for _ in range(2):  # as `timeout` does
            os.killpg(bench.pid, signal.SIGTERM)
