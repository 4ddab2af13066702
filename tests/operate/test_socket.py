"""The control socket: who may use it, invalid requests, and misbehaving clients."""

import asyncio
import json
import os
import pwd
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from agent.operate import session
from agent.operate.session import LINE_LEN_MAX, Peer, Request
from agent.operate.socket import CLIENTS_MAX, ControlSocket, ControlSocketError, open_socket
from agent.tools import client
from tests.missing import need_root
from tests.real.part import until

# Python 3.12 warns of forks beside threads; the child of ask_as makes a few system calls and is gone.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

DEADLINE_S = 10.0
LARGE = "x" * 4_000_000
NOBODY = 65534
GROUP = 54321


async def _echo(request: Request, peer: Peer) -> dict[str, Any]:
    return {"request": dict(request), "uid": peer.uid}


async def _large(_request: Request, _peer: Peer) -> dict[str, Any]:
    return {"large": LARGE}


async def _broken(_request: Request, _peer: Peer) -> dict[str, Any]:
    raise RuntimeError("a fault of ours")


@contextmanager
def serving(path: Path, gid: int | None = None) -> Iterator[ControlSocket]:
    """A socket served by an event loop on a thread of its own."""
    started = threading.Event()
    end = asyncio.Event()
    found: list[Any] = []

    async def serve() -> None:
        served = ControlSocket(path, {"echo": _echo, "large": _large, "broken": _broken}, gid)
        found.extend([served, asyncio.get_running_loop()])
        started.set()
        await end.wait()
        served.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(DEADLINE_S)
    try:
        yield found[0]
    finally:
        found[1].call_soon_threadsafe(end.set)
        thread.join()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def served(path: Path) -> Iterator[ControlSocket]:
    with serving(path) as served:
        yield served


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(DEADLINE_S)
    connection.connect(str(path))
    return connection


def answers(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """Every answer until the other end closes, with a reset where it left something unread."""
    with connection.makefile("rb") as lines:
        try:
            for line in lines:
                yield json.loads(line)
        except ConnectionResetError:
            return


def exchange(path: Path, sent: bytes, *, end: bool = True) -> list[dict[str, Any]]:
    with connect(path) as connection:
        connection.sendall(sent)
        if end:
            connection.shutdown(socket.SHUT_WR)
        return list(answers(connection))


def test_a_request_is_answered_with_the_version(served: ControlSocket) -> None:
    (answer,) = exchange(served.path, b'{"version": 1, "command": "echo", "for": "30m"}\n')
    assert answer == {"version": 1, "ok": True, "request": {"for": "30m"}, "uid": os.geteuid()}


def test_one_connection_asks_as_often_as_it_likes(served: ControlSocket) -> None:
    sent = b"".join(b'{"command": "echo", "n": %d}\n' % n for n in range(50))
    assert [answer["request"]["n"] for answer in exchange(served.path, sent)] == list(range(50))


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"\n", "not one line of JSON"),
        (b"drain\n", "not one line of JSON"),
        (b"\xff\xff\n", "not one line of JSON"),
        (b"[" * 4000 + b"\n", "not one line of JSON"),
        (b"[1]\n", "not a JSON object"),
        (b"{}\n", 'no "command"'),
        (b'{"command": 7}\n', 'no "command"'),
        (b'{"command": "dance"}\n', "unknown command 'dance'; allowed: echo, large, broken"),
        (b'{"command": "echo", "version": 2}\n', "version 2 of the protocol is not supported; allowed: 1"),
        (b'{"command": "echo", "version": true}\n', "version True of the protocol"),
        (b'{"command": "echo"}', "incomplete line"),
        (b"x" * (LINE_LEN_MAX + 1), f"longer than {LINE_LEN_MAX} bytes"),
        (b'{"command": "broken"}\n', "the agent failed"),
    ],
)
def test_what_is_no_request_is_refused_and_named(served: ControlSocket, sent: bytes, error: str) -> None:
    (answer,) = exchange(served.path, sent)
    assert (answer["version"], answer["ok"]) == (1, False)
    assert error in answer["error"]


def test_a_line_in_pieces_is_one_line(served: ControlSocket) -> None:
    with connect(served.path) as connection:
        for byte in b'{"command": "echo"}\n':
            connection.sendall(bytes([byte]))
        assert next(answers(connection))["ok"]


def test_after_a_refused_line_the_next_one_is_heard(served: ControlSocket) -> None:
    assert [answer["ok"] for answer in exchange(served.path, b'nonsense\n{"command": "echo"}\n')] == [False, True]


def test_an_endless_line_is_not_gathered(served: ControlSocket) -> None:
    with connect(served.path) as connection:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                connection.sendall(b"x" * 65536)
        assert "longer than" in next(answers(connection))["error"]


def test_a_client_that_never_reads_is_read_no_more_and_holds_up_nobody(served: ControlSocket) -> None:
    with connect(served.path) as deaf:
        deaf.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                deaf.send(b'{"command": "large"}\n')
        assert client.ask(served.path, "echo")["ok"]


def test_a_client_that_never_reads_is_left(served: ControlSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ANSWER_S", 0.05)
    with connect(served.path) as deaf:
        deaf.sendall(b'{"command": "large"}\n')
        until(lambda: not served.clients, "the client is left", DEADLINE_S)


@pytest.mark.parametrize(("sent", "told"), [(b"", []), (b'{"comm', ["no complete line within 0.05 s"])])
def test_a_client_that_says_nothing_more_is_left(
    path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes, told: list[str]
) -> None:
    monkeypatch.setattr(session, "IDLE_S", 0.05)
    with serving(path):
        assert [answer["error"] for answer in exchange(path, sent, end=False)] == told


def test_a_large_answer_arrives_whole(served: ControlSocket) -> None:
    assert client.ask(served.path, "large")["large"] == LARGE


def test_a_client_that_goes_away_costs_nothing(served: ControlSocket) -> None:
    for _ in range(100):
        with connect(served.path) as connection:
            connection.sendall(b'{"command": "large"}\n')
    until(lambda: not served.clients, "no client is left", DEADLINE_S)
    assert client.ask(served.path, "echo")["ok"]


def test_of_a_hundred_clients_those_beyond_the_limit_are_told_so(served: ControlSocket) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(served.path)) for _ in range(100)]
        refusals = [next(answers(connection))["error"] for connection in clients[CLIENTS_MAX:]]
        assert set(refusals) == {f"refused: {CLIENTS_MAX} clients are connected already; try again later"}
        clients[0].sendall(b'{"command": "echo"}\n')
        assert next(answers(clients[0]))["ok"]
        assert len(served.clients) == CLIENTS_MAX
    until(lambda: not served.clients, "no client is left", DEADLINE_S)
    assert client.ask(served.path, "echo")["ok"]


# Who may.


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A path that others than the test's user can reach."""
    need_root("another user is played")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory, "control.sock")


def ask_as(path: Path, uid: int, gid: int, groups: list[int]) -> dict[str, Any]:
    """The answer that another user gets."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        try:
            answer = client.ask(path, "echo")
        except client.ClientError as error:
            answer = {"error": str(error)}
        os.write(theirs, json.dumps(answer).encode())
        os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as told:  # noqa: PTH123 - of a descriptor
        answer = json.loads(told.read())
    os.waitpid(child, 0)
    return dict(answer)


def test_a_stranger_is_refused_in_clear_words(open_path: Path) -> None:
    with serving(open_path):
        told = ask_as(open_path, NOBODY, NOBODY, [GROUP])
    assert told["error"].startswith(f"refused: uid {NOBODY} may not control this agent; root may.")


def test_a_stranger_is_refused_though_nobody_tells_users_names(
    open_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_at_last = threading.Event()
    monkeypatch.setattr(pwd, "getpwuid", lambda _: told_at_last.wait())
    with serving(open_path):
        try:
            told = ask_as(open_path, NOBODY, NOBODY, [GROUP])
        finally:
            told_at_last.set()
    assert told["error"].startswith(f"refused: uid {NOBODY} may not")


@pytest.mark.parametrize(("gid", "groups"), [(GROUP, []), (NOBODY, [1, GROUP])])
def test_a_member_of_the_group_may_by_first_and_by_other_group(open_path: Path, gid: int, groups: list[int]) -> None:
    with serving(open_path, GROUP):
        assert ask_as(open_path, NOBODY, gid, groups)["uid"] == NOBODY


def test_a_member_of_another_group_may_not(open_path: Path) -> None:
    with serving(open_path, GROUP):
        told = ask_as(open_path, NOBODY, NOBODY, [1, GROUP + 1])
    assert f"root, and members of group {GROUP} may" in told["error"]


def test_somebody_in_very_many_groups_counts_by_the_first(open_path: Path) -> None:
    many = list(range(100_000, 100_400))
    with serving(open_path, GROUP):
        assert ask_as(open_path, NOBODY, GROUP, many)["ok"]
        assert "refused" in ask_as(open_path, NOBODY, NOBODY, many)["error"]


# Where the socket is.


def test_the_directory_is_made_and_everybody_reaches_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "run" / "control.sock"
    before = os.umask(0o077)
    try:
        with serving(path):
            assert path.parent.stat().st_mode & 0o777 == 0o755
            assert path.stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)
    assert not path.exists()


def test_a_dead_agents_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
        dead.listen()
    with serving(path):
        assert client.ask(path, "echo")["ok"]


def test_a_live_agents_socket_is_left_alone_and_named(served: ControlSocket) -> None:
    with pytest.raises(ControlSocketError) as refused:
        open_socket(served.path)
    assert f"{served.path}: in use by another agent (pid {os.getpid()})" in str(refused.value)
    assert client.ask(served.path, "echo")["ok"]


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ControlSocketError, match="not a socket; leaving it alone"):
        open_socket(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("path", [Path("/proc/busyweight/control.sock"), Path("/tmp", "x" * 120)])  # noqa: S108
def test_a_place_where_no_socket_can_be_is_named(path: Path) -> None:
    with pytest.raises(ControlSocketError) as refused:
        open_socket(path)
    assert str(refused.value).startswith(f"control socket {path}: ")


def test_a_successors_socket_is_not_taken_away(path: Path) -> None:
    with serving(path):
        path.unlink()
        successor = open_socket(path)
    assert path.exists()
    successor.close()


# The other end.


@pytest.mark.parametrize(
    ("sends", "error"),
    [
        (b"", "answered nothing"),
        (b"HTTP/1.1 400 Bad Request\r\n", "something other than the control protocol"),
        (b"[]\n", "something other"),
        (b'{"version": 2, "ok": true}\n', "the agent speaks version 2 of the protocol, this command 1"),
        (b'{"version": 1, "ok": false, "error": "no"}\n', "no"),
    ],
)
def test_an_answer_that_is_none_is_named(path: Path, sends: bytes, error: str) -> None:
    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(sends)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with pytest.raises(client.ClientError, match=error):
            client.ask(path, "status")
        thread.join()


def test_an_agent_that_does_not_run_is_named_with_the_remedy(path: Path) -> None:
    with pytest.raises(client.ClientError, match=f"no agent at {path}: it is not running"):
        client.ask(path, "status")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with pytest.raises(client.ClientError, match=f"no agent at {path}: the one that created this socket is gone"):
        client.ask(path, "status")


def test_an_agent_that_is_stuck_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stuck:
        stuck.bind(str(path))
        stuck.listen()
        with pytest.raises(client.ClientError, match="does not answer within"):
            client.ask(path, "status")
