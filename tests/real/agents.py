"""What answers agent-checks: the agent as an operator runs it, and the script that it replaces."""

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

from tests.matrix.trees import Tree

from . import original
from .part import Part, free_port, until

ANSWER_DEADLINE_S = 3.0


class Listener(Part):
    """A part that answers agent-checks on a loopback port."""

    def __init__(self, name: str, home: Path, port: int | None = None, debian: Tree | None = None) -> None:
        super().__init__(name, home, debian)
        self.port = port or free_port()

    def ready(self) -> bool:
        try:
            self.ask()
        except ConnectionRefusedError:
            return False
        return True

    def ask(self, send: bytes = b"", deadline_s: float = 5.0) -> bytes:
        """One poll as HAProxy makes it: connect, send what agent-send says, read to the end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=deadline_s) as connection:
            if send:
                connection.sendall(send)
            with connection.makefile("rb") as answer:
                return answer.read()

    def wait_answer(self, expected: bytes, deadline_s: float = ANSWER_DEADLINE_S) -> None:
        answers: list[bytes] = []

        def look() -> bool:
            answers.append(self.ask())
            return answers[-1] == expected

        def evidence() -> str:
            return f"last answer: {answers[-1]!r}\n{self.evidence()}"

        until(look, f"{self.name} answering {expected!r}", deadline_s, evidence)


class Script(Listener):
    """The original script behind a TCP port, as its users ran it."""

    def __init__(self, home: Path, capacity: int, name: str = "script") -> None:
        super().__init__(name, home)
        self.capacity = capacity

    def argv(self) -> list[str]:
        return [sys.executable, original.__file__, str(self.port), str(self.capacity)]


class Installed(NamedTuple):
    """Another `busyweight` than that of this interpreter: its path in a Debian tree."""

    debian: Tree
    program: Path


class Agent(Listener):
    """`busyweight serve` with its files in the part's directory; `config` is TOML without `listen`."""

    # A stopping agent may go on answering for a while; a second signal ends it at once.
    STOP: ClassVar[tuple[tuple[signal.Signals, float], ...]] = (
        (signal.SIGTERM, 0.5),
        (signal.SIGTERM, 5.0),
        (signal.SIGKILL, 5.0),
    )

    def __init__(
        self,
        home: Path,
        config: str = "",
        *,
        name: str = "agent",
        port: int | None = None,
        of: Installed | None = None,
    ) -> None:
        super().__init__(name, home, port, of.debian if of else None)
        self.program = of.program if of else Path(sys.executable).parent / "busyweight"
        if not of and not self.program.exists():
            pytest.fail(f"{self.program} is not there: make build")
        self.config_file = self.home / "busyweight.toml"
        self.control = self.home / "control.sock"
        self.write_config(config)

    def write_config(self, config: str) -> None:
        """Takes effect with the next start, or with SIGHUP."""
        self.config_file.write_text(f'listen = ["127.0.0.1:{self.port}"]\n{config}')

    def argv(self) -> list[str]:
        places = ["--control", str(self.control), "--state", str(self.home / "state")]
        return [str(self.program), "serve", "--config", str(self.config_file), *places]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Another command of busyweight, beside the running one."""
        return self.call(str(self.program), *words)

    def order(self, *words: str) -> str:
        """A command to the running agent (`drain`, `status --json`, …); what it printed."""
        done = self.run(*words, "--control", str(self.control))
        assert done.returncode == 0, f"{words} exits {done.returncode}: {done.stderr}\n{self.evidence()}"
        return done.stdout


class Mortal(Agent):
    """Ended at once after its test, without a last reply."""

    STOP: ClassVar = ((signal.SIGKILL, 5.0),)
