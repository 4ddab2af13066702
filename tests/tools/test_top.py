"""`busyweight top` in real terminals: what it shows at any size, and that it restores the terminal."""

import fcntl
import json
import os
import pty
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from rich.console import Console

from agent.tools import client
from agent.tools.top.frame import Frame
from agent.tools.top.view import View, columns
from tests.missing import need
from tests.prompt import COMMAND, run
from tests.real.parts import until
from tests.tree import Agents, MortalAgent, Tree, TreeAgent

DEADLINE_S = 20.0
UTF8 = {"LC_ALL": "C.UTF-8"}
SECOND_SCREEN, FIRST_SCREEN = b"\x1b[?1049h", b"\x1b[?1049l"
HIDDEN_CURSOR, CURSOR = b"\x1b[?25l", b"\x1b[?25h"


@pytest.fixture
def agent(agents: Agents, tree: Tree) -> Iterator[TreeAgent]:
    """With 6 of 24 busy, two pools, and one poll made."""
    tree.workers(busy=6, idle=18)
    tree.add(200, b"sidekiq 7.3.0 mail [9 of 10 busy] stopping")
    tree.add(201, b"rq:worker:a: Processing f from q since 1", comm="rq:worker:a")
    config = '[weight]\ncapacity = 28\n[pools.jobs]\ncapacity = 14\n[pools.rq]\npreset = "rq"\n'
    with agents.make(MortalAgent, config) as agent:
        yield agent


class Session:
    """`busyweight top` on a terminal of its own; what it writes is kept."""

    def __init__(self, control: Path, *, rows: int = 24, width: int = 80) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, width, 0, 0))
        self._ours, self._theirs = ours, theirs
        self.before = termios.tcgetattr(theirs)
        self.written = b""
        self.process = subprocess.Popen(
            [COMMAND, "top", "--control", control],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            env=os.environ | UTF8 | {"TERM": "xterm"},
            start_new_session=True,
            # The terminal is its own, so that keys become signals.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - the test has no threads
        )

    def __enter__(self) -> Self:
        self.wait_for(b"q quits")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._ours)
        os.close(self._theirs)

    def read(self) -> bytes:
        """All that was written so far."""
        while select.select([self._ours], [], [], 0)[0]:
            self.written += os.read(self._ours, 65536)
        return self.written

    def wait_for(self, text: bytes) -> None:
        """Until this was written, since it was waited for last."""
        until(lambda: text in self.read(), f"{text!r} written", DEADLINE_S, lambda: repr(self.written[-500:]))
        self.written = b""

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def end(self) -> tuple[int, str]:
        """Waits for the end: the exit code and the standard error."""
        until(lambda: (self.read(), self.process.poll() is not None)[1], "top ended", DEADLINE_S)
        self.read()
        assert self.process.stderr
        return self.process.returncode, self.process.stderr.read().decode()

    def assert_given_back(self) -> None:
        assert self.attributes() == self.before
        assert self.written.rfind(FIRST_SCREEN) > self.written.rfind(SECOND_SCREEN)
        assert self.written.rfind(CURSOR) > self.written.rfind(HIDDEN_CURSOR)


@pytest.mark.parametrize("way", [b"q", b"\x03", signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=repr)
def test_however_it_is_ended_the_terminal_is_as_it_was(agent: TreeAgent, way: bytes | signal.Signals) -> None:
    with Session(agent.control) as top:
        assert top.attributes() != top.before
        top.type(way) if isinstance(way, bytes) else top.process.send_signal(way)
        assert top.end() == (0, "")
        top.assert_given_back()


def test_the_agent_dies_while_top_runs(agent: TreeAgent) -> None:
    """Top ends with a message and exit code 1, and restores the terminal."""
    with Session(agent.control) as top:
        agent.stop()
        code, said = top.end()
        top.assert_given_back()
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith(f"busyweight: no agent at {agent.control}")


def test_an_agent_that_hangs_can_be_left_at_once(agent: TreeAgent) -> None:
    with Session(agent.control) as top:
        agent.send(signal.SIGSTOP)
        try:
            until(lambda: in_recv(top.process.pid), "waiting for the agent", DEADLINE_S)
            top.type(b"\x03")
            assert top.end() == (0, "")
        finally:
            agent.send(signal.SIGCONT)
        top.assert_given_back()


POLL = 7 if os.uname().machine == "x86_64" else 73  # poll(2), or ppoll(2) where there is no other


def in_recv(pid: int) -> bool:
    """Whether it waits for a socket: the poll of a receive with a timeout has a single descriptor."""
    words = Path(f"/proc/{pid}/syscall").read_text().split()
    return words[0] == str(POLL) and words[2] == "0x1"


@pytest.fixture
def tmux(tmp_path: Path) -> Iterator["Tmux"]:
    tmux = Tmux(tmp_path)
    yield tmux
    tmux.command("kill-server")


class Tmux:
    """A terminal whose screen can be read."""

    def __init__(self, home: Path) -> None:
        self._home, self._asked = home, 0
        self._argv = [need("tmux", "tmux"), "-f", "/dev/null", "-u", "-S", str(home / "tmux.sock")]
        # Sizes in the environment are those of another terminal.
        environment = {"COLUMNS": "132", "LINES": "50"} | UTF8
        shell = ("env", *(f"{name}={value}" for name, value in environment.items()), "sh")
        self.command("new-session", "-d", "-x", "80", "-y", "24", *shell)

    def command(self, *words: str) -> str:
        done = subprocess.run([*self._argv, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def screen(self) -> list[str]:
        return self.command("capture-pane", "-p").split("\n")[:-1]

    def type(self, text: str) -> None:
        self.command("send-keys", text, "Enter")

    def wait_screen(self, what: str, condition: Callable[[list[str]], bool]) -> list[str]:
        """The screen, once the condition holds for it."""

        def look() -> list[str]:
            screen = self.screen()
            return screen if condition(screen) else []

        return until(look, what, DEADLINE_S, lambda: "\n".join(self.screen()))

    def wait_line(self, begins: str) -> list[str]:
        """The screen, once a line of it begins so."""
        return self.wait_screen(begins, lambda screen: any(line.startswith(begins) for line in screen))

    def settings(self) -> str:
        """What stty(1) says of the terminal, once the shell has got round to asking."""
        self._asked += 1
        answer = self._home / f"stty{self._asked}"
        self.type(f"stty -g > {answer}.new; mv {answer}.new {answer}")
        until(answer.exists, "stty has answered", DEADLINE_S, lambda: "\n".join(self.screen()))
        return answer.read_text()

    def wait_first_screen(self) -> None:
        """Until whatever took the second screen gave it back."""
        until(lambda: self.command("display", "-p", "#{alternate_on}") == "0\n", "first screen", DEADLINE_S)

    def resize(self, width: int, height: int) -> None:
        """Makes it so large, and waits until it shows one whole frame."""
        self.command("resize-window", "-x", str(width), "-y", str(height))
        self.wait_screen(f"a frame of {width} x {height}", lambda screen: whole(screen, height))


def whole(screen: list[str], height: int) -> bool:
    """Whether it is one frame, from its first line to its last."""
    lines = [line for line in screen if line]
    framed = len(lines) > 1 and lines[0].startswith("busyweig") and lines[-1] == "q quits"
    return framed and len(screen) == height


def test_all_is_shown_in_80_columns_and_24_lines_and_fits_smaller_ones(agent: TreeAgent, tmux: Tmux) -> None:
    before = tmux.settings()
    tmux.type(f"{shlex.quote(str(COMMAND))} top --control {agent.control}; echo exit $?")
    agent.ask(b"\n")
    screen = tmux.wait_line("q quits")
    assert len(screen) == 24
    assert screen[0].startswith("busyweight ") and "serving" in screen[0]
    text = "\n".join(screen)
    for words in ("'up 75% #7/28 busy'", "'up 50% #7/14 busy'", "override   none", "-10 min", "found by sweep"):
        assert words in text
    assert "   200     9 of 10   0.0s  stopping" in text and " 201      1 of 1   0.0s  rq" in text, text

    for width, height in ((40, 12), (20, 6), (10, 3), (200, 60), (80, 24)):
        tmux.resize(width, height)

    agent.order("drain", "--reason", "kernel update")
    tmux.wait_line("override   drain by ")
    tmux.command("send-keys", "q")
    tmux.wait_line("exit 0")
    assert tmux.settings() == before


def test_while_it_is_stopped_the_terminal_is_given_back(agent: TreeAgent, tmux: Tmux) -> None:
    before = tmux.settings()
    tmux.type(f"{shlex.quote(str(COMMAND))} top --control {agent.control}")
    tmux.wait_line("q quits")
    tmux.command("send-keys", "C-z")
    tmux.wait_first_screen()
    assert tmux.settings() == before
    tmux.type("fg")
    tmux.wait_line("q quits")
    tmux.command("send-keys", "q")
    tmux.wait_first_screen()
    assert tmux.settings() == before


def test_one_frame_goes_into_a_pipe_with_the_pace_of_the_pollers(agent: TreeAgent) -> None:
    agent.ask(b"\n")
    done = run("top", "--once", "--control", agent.control)
    lines = done.out.decode().splitlines()
    assert (done.code, done.err) == (0, "")
    assert b"\x1b" not in done.out
    assert max(len(line) for line in lines) <= 80
    assert any(line.startswith("polls      0.0/s, ") for line in lines)
    assert not any("q quits" in line for line in lines)


def test_without_a_terminal_it_is_exit_code_2_and_names_the_way_out(agent: TreeAgent) -> None:
    done = run("top", "--control", agent.control)
    assert (done.code, done.out) == (2, b"")
    assert "busyweight top --once" in done.err


def test_without_an_agent_it_is_exit_code_1_and_one_line(tmp_path: Path) -> None:
    done = run("top", "--control", tmp_path / "none.sock")
    assert (done.code, done.out, done.err.count("\n")) == (1, b"", 1)
    assert done.err.startswith("busyweight: no agent at ")


def test_without_rich_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['rich.console'] = None; from agent import cli; sys.exit(cli.main(['top']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "busyweight: top needs the rich library: pip install 'busyweight[top]', or apt install python3-rich\n"
    )


# Frames of agents in any state.


@pytest.fixture
def answers(agent: TreeAgent) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A real status and real workers, to be changed."""
    agent.ask(b"\n")
    status = json.loads(json.dumps(client.ask(agent.control, "status")["status"]))
    return status, client.ask(agent.control, "workers")["workers"]


def text(view: View, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, force_terminal=False)
    with console.capture() as drawn:
        console.print(Frame(view, hint=True))
    return drawn.get().splitlines()


def test_no_frame_is_larger_than_its_screen_whatever_it_shows(
    answers: tuple[dict[str, Any], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, workers = answers
    status["pools"] *= 9
    status["pools"][3] |= {"pool": "x" * 300, "reply": "up #" + "y" * 200, "weight": None, "known": False}
    status["polls"]["pollers"] = [
        {"address": f"2001:db8:0:1234:5678:9abc:def0:{n:x}", "polls": n, "last_s": n * 1e5, "allowed": n % 2 == 0}
        for n in range(60)
    ]
    status["scanner"] |= {"failure": "z" * 300, "hung_readers": 16}
    status["history"] = [(9e9, 100), (300.0, None), (200.0, 0), (0.1, 50)]
    many = View(status, workers * 40, 5000, None)
    for charset in ("C.UTF-8", "C"):
        monkeypatch.setenv("LC_ALL", charset)
        for width in (1, 7, 20, 33, 79, 80, 81, 120, 300):
            for height in (1, 2, 3, 5, 15, 16, 24, 80):
                lines = text(many, width, height)
                assert len(lines) <= max(2, height)
                assert max(len(line) for line in lines) <= width
                assert charset != "C" or "".join(lines).isascii()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pools": []}, "none yet"),
        ({"sample": None}, "none recent enough"),
        ({"ready_owed": True}, "sending ready to every poll"),
        ({"history": []}, "-10 min"),
    ],
    ids=str,
)
def test_what_is_not_there_yet_is_said(
    answers: tuple[dict[str, Any], list[dict[str, Any]]], changes: dict[str, Any], words: str
) -> None:
    status, _ = answers
    lines = text(View(status | changes, [], 0, None))
    assert words in "\n".join(lines) and "no worker" in "\n".join(lines)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([], []),
        ([(10.0, 50)], [50]),
        ([(100.0, 70)], [70] * 10),
        ([(9999.0, 70)], [70] * 10),
        ([(100.0, 70), (50.0, 20)], [70] * 5 + [20] * 5),
        ([(100.0, 70), (58.0, 20), (55.0, 70)], [70] * 4 + [20] + [70] * 5),
        ([(40.0, None), (20.0, 0)], [None, None, 0, 0]),
        ([(9999.0, 1), (5000.0, 2), (10.0, 3)], [2] * 9 + [3]),
    ],
    ids=str,
)
def test_a_part_of_the_line_shows_the_least_weight_said_in_it(
    history: list[tuple[float, int | None]], expected: list[int | None]
) -> None:
    assert columns(history, 100.0, 10) == expected


def test_polls_per_second_are_counted_from_frame_to_frame_of_the_same_agent(
    answers: tuple[dict[str, Any], list[dict[str, Any]]],
) -> None:
    status, _ = answers
    later = json.loads(json.dumps(status))
    later["agent"]["uptime_s"] += 2.0
    later["polls"]["pollers"][0]["polls"] += 30
    first = View.of(status, [], 0, None)
    paces = View.of(later, [], 0, first).paces
    assert first.paces is None and paces is not None
    assert paces["127.0.0.1"] == pytest.approx(15.0)
    later["agent"]["pid"] += 1
    assert View.of(later, [], 0, first).paces is None
