"""Where the state directory and the control socket are, and which setting takes precedence."""

import os
import socket
import sys
from pathlib import Path

import pytest

from agent.config import paths


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment of its own, in which nothing was ever tried."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    return tmp_path


def test_precedence_of_directories(environment: Path) -> None:
    """The option first, then systemd's variables, then the system's directories."""
    systemd = {"STATE_DIRECTORY": "/s:/other", "RUNTIME_DIRECTORY": "/r:/other"}
    assert paths.state_directory("/o", systemd) == Path("/o")
    assert paths.control_socket("/o/c", systemd) == Path("/o/c")
    assert paths.state_directory(None, systemd) == Path("/s")
    assert paths.control_socket(None, systemd) == Path("/r/control.sock")
    assert paths.state_directory(None, {}) == Path("/var/lib/busyweight")
    assert paths.control_socket(None, {}) == Path("/run/busyweight/control.sock")


def test_a_checkout_that_was_tried_out_keeps_to_itself_unless_it_is_told_otherwise(environment: Path) -> None:
    own = environment / paths.TRYOUT
    own.mkdir()
    assert paths.state_directory(None, {}) == own
    assert paths.control_socket(None, {}) == own / "control.sock"
    assert paths.state_directory("/o", {}) == Path("/o")
    assert paths.state_directory(None, {"STATE_DIRECTORY": "/s"}) == Path("/s")
    assert paths.control_socket(None, {"RUNTIME_DIRECTORY": "/r"}) == Path("/r/control.sock")


def test_the_systems_own_python_is_no_checkout(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (environment / paths.TRYOUT).mkdir()
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    assert paths.control_socket(None, {}) == Path("/run/busyweight/control.sock")


@pytest.mark.parametrize("length", [paths.SUN_PATH_LEN - 1, paths.SUN_PATH_LEN, 1000])
def test_a_socket_is_reached_however_long_its_path_is(tmp_path: Path, length: int) -> None:
    deep = tmp_path
    while (room := length - len(f"{deep}/x.sock") - 1) > 0:
        deep /= "d" * min(room, 100)
    path = deep / "x.sock"
    deep.mkdir(parents=True, exist_ok=True)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only

    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        with paths.short_name(path) as name:
            listener.bind(name)
        listener.listen()
        with paths.short_name(path) as name:
            client.connect(name)

    assert path.is_socket()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
