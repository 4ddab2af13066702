"""`make run`: prints what to type next, writes only inside its checkout, is found by its other commands, and runs once
at a time."""

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config import paths
from tests.real.parts import Listener, Mortal, free_port

from . import checkout
from .checkout import REPOSITORY


class TryOut(Listener):
    """What `make run` runs, in a virtual environment of its own."""

    STOP = Mortal.STOP

    def __init__(self, home: Path, venv: Path) -> None:
        super().__init__("tryout", home)
        self.python = checkout.make(venv)
        self.venv = venv
        self.address = f"127.0.0.1:{self.port}"

    def argv(self) -> list[str]:
        return [str(self.python), "-m", "tools.run", self.address]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PYTHONPATH": str(REPOSITORY)}

    def again(self) -> subprocess.CompletedProcess[str]:
        """The same once more, beside it."""
        environ = self.environment()
        return subprocess.run(self.argv(), env=environ, capture_output=True, text=True, timeout=60, check=False)

    def command(self, *words: str) -> str:
        """Another command of the same checkout."""
        argv = [str(self.venv / "bin/busyweight"), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout


def system() -> list[tuple[Path, list[str] | None]]:
    """What there is in the directories of an installed agent."""
    places = [Path("/run/busyweight"), Path("/var/lib/busyweight"), Path("/var/lib/private/busyweight")]
    there: list[tuple[Path, list[str] | None]] = []
    for place in places:
        try:
            there.append((place, sorted(path.name for path in place.iterdir())))
        except (FileNotFoundError, PermissionError):  # /var/lib/private is root's
            there.append((place, None))
    return there


@pytest.fixture
def tryout(tmp_path: Path) -> Iterator[TryOut]:
    """In a place that makes things hard: a blank in its path, which is longer than a socket's address."""
    before = system()
    with TryOut(tmp_path, tmp_path / "a blank" / ("long" * 30) / ".venv") as running:
        yield running
    assert system() == before


def test_it_keeps_to_its_checkout_and_the_other_commands_find_it(tryout: TryOut) -> None:
    assert tryout.command("status").startswith("reply ")
    tryout.command("drain", "--reason", "so that there is state")
    own = tryout.venv / paths.TRYOUT
    assert sorted(path.name for path in own.iterdir()) == ["control.sock", "override.json"]
    assert tryout.ask().startswith(b"drain")


def test_it_says_how_to_poll_and_what_comes_next(tryout: TryOut) -> None:
    hints = tryout.log_text()
    [poll] = re.findall(r"^    (bash .*') +polls", hints, re.M)
    assert subprocess.run(poll, shell=True, capture_output=True, check=True).stdout == tryout.ask()  # noqa: S602
    for word in ("status", "make demo", "Ctrl-C"):
        assert word in hints


def test_a_second_one_is_told_of_the_first_in_one_line(tryout: TryOut) -> None:
    done = tryout.again()
    assert (done.returncode, done.stdout) == (1, "")
    assert f"already running as pid {tryout.pid}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert tryout.running


def test_a_port_that_is_taken_is_one_line_with_the_way_out(tmp_path: Path) -> None:
    tryout = TryOut(tmp_path, tmp_path / ".venv")
    with socket.create_server(("127.0.0.1", tryout.port)):
        done = tryout.again()
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"run: 127.0.0.1:{tryout.port}: is in use .* make run LISTEN=127.0.0.1:\d+\n", done.stderr)


def test_no_address_is_one_line(tmp_path: Path) -> None:
    tryout = TryOut(tmp_path, tmp_path / ".venv")
    for tryout.address in ("nowhere:5001", f"192.0.2.1:{free_port()}"):
        done = tryout.again()
        assert (done.returncode, done.stdout) == (1, "")
        assert tryout.address in done.stderr
        assert done.stderr.count("\n") == 1
