"""The fleet bench ended by a signal in the midst of a run: it ends by itself, and all that it started with it."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.real.parts import need, until

pytest.importorskip("numpy", reason="no numpy here: `make bench` installs it")
pytest.importorskip("matplotlib", reason="no matplotlib here: `make bench` installs it")

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


# To all that it started, too: as a terminal does, and `timeout`, by which the bench gets it twice.
@pytest.mark.parametrize("kill", [os.kill, os.killpg])
def test_it_ends_and_leaves_nothing(scratch: Path, kill: Callable[[int, int], None]) -> None:
    need("haproxy", "haproxy")
    environ = os.environ | {"TMPDIR": str(scratch)}
    argv = [sys.executable, "-m", "benches.fleet", "--small"]
    with subprocess.Popen(
        argv, env=environ, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True
    ) as bench:
        try:
            until(lambda: any(scratch.glob("fleet-*/seven/run.hosts")), "a run has begun", DEADLINE_S)
            for _ in range(2):
                kill(bench.pid, signal.SIGTERM)
            _, said = bench.communicate(timeout=DEADLINE_S)
        finally:
            bench.kill()
    assert bench.returncode == 1, said
    assert "Traceback" not in said
    assert processes_with(f"TMPDIR={scratch}".encode()) == []
    assert list(scratch.iterdir()) == []
