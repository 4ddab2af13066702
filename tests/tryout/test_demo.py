"""`make demo`: weights follow the jobs, a production agent does not count its workers, and nothing is left behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.missing import need
from tests.real.parts import until

from .checkout import REPOSITORY

PATH = f"{os.environ['PATH']}:/usr/sbin"
WEIGHTS = [100, 83, 67, 50, 33, 17, 0]
ROW = re.compile(r"([#.]{6})  up (\d+)% #(\d)/6 busy(?: +this_host +(\d+) (=*) +a_web_host (\d+) =*)?")


@contextmanager
def demo(
    scratch: Path, *words: str, path: str = f"{os.environ['PATH']}:/usr/sbin"
) -> Iterator["subprocess.Popen[str]"]:
    """Running for the time of a `with` block; afterwards no process and no file of it is there."""
    environ = os.environ | {"TMPDIR": str(scratch), "PATH": path, "PYTHONUNBUFFERED": "1"}
    argv = [sys.executable, "-m", "tools.demo", *words]
    with subprocess.Popen(argv, env=environ, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
            running.wait(60)
        finally:
            running.kill()
    assert list(scratch.iterdir()) == []
    mine = f"{scratch}\0".encode(), f"demo-{running.pid}\n".encode()
    left = [
        process
        for process in Path("/proc").glob("[0-9]*")
        if mine[1] == _read(process / "comm") or b"TMPDIR=" + mine[0] in _read(process / "environ")
    ]
    assert left == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def rows(text: str) -> list[re.Match[str]]:
    return list(ROW.finditer(text))


def test_the_balancers_weights_follow_the_jobs_up_and_down(tmp_path: Path) -> None:
    need("haproxy", "haproxy")
    with demo(tmp_path, "--steps", "13", "--every", "0") as running:
        said, _ = running.communicate(timeout=60)
    found = rows(said)
    assert [int(row[3]) for row in found] == [*range(7), *range(5, -1, -1)]
    for row in found:
        assert row[1].count("#") == int(row[3])
        assert int(row[2]) == int(row[4]) == WEIGHTS[int(row[3])]
        assert row[6] == "100"
    assert re.search(r"page.*http://127.0.0.1:\d+/", said)
    assert running.returncode == 0


def test_without_haproxy_the_agent_is_polled_all_the_same_and_it_is_said(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with demo(scratch, "--steps", "3", "--every", "0", path=str(tools)) as running:
        said, _ = running.communicate(timeout=60)
    assert [(int(row[2]), row[4]) for row in rows(said)] == [(100, None), (83, None), (67, None)]
    assert "HAProxy is not installed" in said


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_however_it_is_ended_it_leaves_nothing(tmp_path: Path, ends: signal.Signals) -> None:
    with demo(tmp_path) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if rows(line):
                break
        running.send_signal(ends)
        assert running.wait(30) == 0


def test_killed_it_leaves_no_process(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if rows(line):
                break
        in_earnest = [sys.executable, "-m", "agent", "check", "--workers"]
        counted = subprocess.run(in_earnest, capture_output=True, text=True, check=True).stdout
        assert "PID" in counted
        assert "sidekiq 7.3.0 demo" not in counted
        running.kill()
        running.wait(30)
        name = f"demo-{running.pid}\n".encode()
        until(lambda: all(_read(p / "comm") != name for p in Path("/proc").glob("[0-9]*")), "the workers end", 10)
        [scratch] = tmp_path.iterdir()
        config = str(scratch / "busyweight.toml").encode()
        until(
            lambda: not any(config in _read(p / "cmdline") for p in Path("/proc").glob("[0-9]*")), "the agent ends", 10
        )
        shutil.rmtree(scratch)
