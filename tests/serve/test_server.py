"""The sockets, with real connections: every client gets a reply or a closed connection."""

import errno
import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from agent.sampling.cache import Cache, Pace
from agent.serve.server import Address, ListenError, open_listener, open_listeners
from tests.missing import need
from tests.real.parts import until
from tests.scarce import descriptors_left
from tests.serve.serving import DEADLINE_S, POOLS, Serving, ask, connect, said


@pytest.mark.parametrize("send", [b"", b"\n", b"x", b"GET / HTTP/1.1\r\n\r\n", b"\0\xff" * 100])
def test_a_poll_is_answered_at_once_and_closed_whatever_it_sends(send: bytes) -> None:
    with Serving() as serving:
        [address] = serving.listen()
        assert ask(address, send) == b"up 75%\n"


def test_a_flood_harms_nobody_else() -> None:
    """A client that sends without reading gets a reply or is disconnected; others are served."""
    with Serving() as serving:
        [address] = serving.listen()
        for _ in range(20):
            with connect(address) as flood:
                try:
                    for _ in range(100):
                        flood.sendall(b"x" * 65_536)
                except (ConnectionResetError, BrokenPipeError):
                    continue
        assert ask(address) == b"up 75%\n"


def test_who_is_gone_before_the_answer_costs_nothing() -> None:
    with Serving() as serving:
        [address] = serving.listen()
        for _ in range(50):
            gone = connect(address)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close resets
            gone.close()
        assert ask(address) == b"up 75%\n"


def test_only_the_networks_allowed_are_answered_in_both_families() -> None:
    with Serving(allow=["127.0.0.0/30", "::1"]) as serving:
        [(_, port)] = serving.listen(("::", 0))
        assert ask(("127.0.0.1", port)) == ask(("::1", port)) == b"up 75%\n"
        stranger = socket.socket()
        stranger.bind(("127.0.0.9", 0))
        stranger.connect(("127.0.0.1", port))
        assert said(stranger) == b""
        assert (serving.totals().answered, serving.totals().refused) == (2, 1)


def system_calls(serving: Serving, trace: Path, address: Address, source: str, polls: int) -> tuple[list[str], bytes]:
    """The server's system calls for so many sequential polls from that address, and the replies.

    Left out is how it sleeps in between, and waits for the interpreter, of which the scheduler decides.
    """
    command = [need("strace", "strace"), "-o", str(trace), "-p", str(serving.thread_id)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as watching:
        assert watching.stderr is not None
        assert b"attached" in watching.stderr.readline()
        try:
            told = b"".join(
                said(socket.create_connection(address, DEADLINE_S, source_address=(source, 0))) for _ in range(polls)
            )
            serving.totals()  # so that the last one is over
        finally:
            watching.terminate()
    calls = re.findall(r"^\w+(?=\()", trace.read_text(), re.MULTILINE)
    return [call for call in calls if call not in ("epoll_wait", "epoll_pwait", "futex")], told


def test_a_refused_poll_is_cheap(tmp_path: Path) -> None:
    """It costs no more system calls than an answered one, and is sent nothing."""
    with Serving(allow=["127.0.0.1"]) as serving:
        [address] = serving.listen()
        answered, told = system_calls(serving, tmp_path / "answered", address, "127.0.0.1", polls=20)
        assert told == b"up 75%\n" * 20
        assert sum(call.startswith("send") for call in answered) == 20
        refused, told = system_calls(serving, tmp_path / "refused", address, "127.0.0.9", polls=20)
        assert told == b""
        assert not [call for call in refused if call.startswith(("send", "write"))]
        assert refused.count("accept4") == 20
        assert len(refused) <= len(answered)


def test_strangers_ask_for_nothing_and_who_is_allowed_is_answered_among_them() -> None:
    asked: list[bool] = []

    def wait() -> bool:
        asked.append(True)
        return True

    def from_elsewhere(address: Address) -> socket.socket:
        return socket.create_connection(address, DEADLINE_S, source_address=("127.0.0.9", 0))

    with Serving(wait, allow=["127.0.0.0/30"]) as serving:
        [address, other] = serving.listen(("127.0.0.1", 0), ("127.0.0.2", 0))
        assert [said(from_elsewhere(address)) for _ in range(100)] == [b""] * 100
        assert asked == []
        # Accepted to see who it is, and made to wait; no other poll comes that would wake the listener again.
        assert ask(address) == b"up 75%\n"
        serving.server.wait_at_most_s = 3600
        serving.do(serving.server.resume)
        asked.clear()
        strangers, waiting = from_elsewhere(other), connect(other)
        until(lambda: asked, "it is made to wait", DEADLINE_S)
        serving.say(b"up 10%\n")
        serving.do(serving.server.resume)
        assert [said(strangers), said(waiting)] == [b"", b"up 10%\n"]
        last = connect(address)
        until(lambda: len(asked) > 1, "it is made to wait", DEADLINE_S)
        serving.do(serving.server.close)
        assert said(last) == b"up 10%\n"
        assert (serving.totals().answered, serving.totals().refused) == (3, 101)


def test_several_addresses_are_served() -> None:
    with Serving() as serving:
        addresses = serving.listen(("127.0.0.1", 0), ("127.0.0.2", 0), ("::1", 0))
        assert [ask(address) for address in addresses] == [b"up 75%\n"] * 3


def test_all_interfaces_of_both_families_may_share_a_port() -> None:
    [free] = open_listeners([("0.0.0.0", 0)], 1).values()
    port = free.getsockname()[1]
    free.close()
    with Serving() as serving:
        assert len(serving.listen(("::", port), ("0.0.0.0", port))) == 2
        assert ask(("127.0.0.1", port)) == ask(("::1", port)) == b"up 75%\n"


@pytest.mark.parametrize(
    ("address", "remedy"),
    [
        (("127.0.0.1", None), "address already in use; to see what uses it: ss -ltnp 'sport = :"),
        (("192.0.2.1", 5001), "no interface of this host has this address"),
    ],
)
def test_an_unusable_address(address: tuple[str, int | None], remedy: str) -> None:
    """The error names it and the remedy, and nothing stays open."""
    taken = open_listener(("127.0.0.1", 0), 1)
    host, port = address[0], address[1] or taken.getsockname()[1]
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names are all that is wanted
    with taken, pytest.raises(ListenError, match=f"cannot listen on {host}:{port}: ") as error:
        open_listeners([("127.0.0.1", 0), (host, port)], 16)
    assert remedy in str(error.value)
    assert len(os.listdir("/proc/self/fd")) == before - 1  # noqa: PTH208


def test_a_socket_that_cannot_be_made_is_named_like_one_that_cannot_be_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    with descriptors_left(0), pytest.raises(ListenError, match=r"cannot listen on 127\.0\.0\.1:0: too many open files"):
        open_listener(("127.0.0.1", 0), 1)

    def without_ipv6(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", without_ipv6)
    with pytest.raises(ListenError, match=r"\[::\]:0: address family not supported .*; IPv6 is disabled on this host"):
        open_listener(("::", 0), 1)


@pytest.mark.parametrize(
    ("send", "answer"),
    [
        (b"mail\n", b"up 20%\n"),
        (b"shop\r\n", b"up 40%\n"),
        (b" mail \n", b"up 20%\n"),
        (b"mail\nshop\n", b"up 20%\n"),
        (b"Mail\n", b"up 75%\n"),
        (b"\n", b"up 75%\n"),
        (b"\xff\0\n", b"up 75%\n"),
        (b"x" * 5000, b"up 75%\n"),
    ],
)
def test_the_line_sent_chooses_the_pool(send: bytes, answer: bytes) -> None:
    with Serving(pools=POOLS) as serving:
        [address] = serving.listen()
        assert ask(address, send) == answer


def test_a_line_that_comes_byte_by_byte_is_waited_for_and_others_are_not_held_up() -> None:
    with Serving(pools=POOLS) as serving:
        [address] = serving.listen()
        slow = connect(address)
        for byte in b"mail\n":
            assert ask(address, b"shop\n") == b"up 40%\n"
            slow.sendall(bytes([byte]))
        assert said(slow) == b"up 20%\n"


def test_who_owes_the_line_past_the_deadline_gets_the_default_pools_answer() -> None:
    with Serving(pools=POOLS, deadline_s=0.05) as serving:
        [address] = serving.listen()
        assert ask(address) == ask(address, b"mai") == b"up 75%\n"
        assert serving.totals().timed_out == 2


def test_who_closes_instead_of_sending_the_line_is_let_go() -> None:
    with Serving(pools=POOLS, awaiting_line_max=1) as serving:
        [address] = serving.listen()
        for _ in range(5):
            half = connect(address, b"mail")
            half.shutdown(socket.SHUT_WR)
            assert said(half) == b"up 20%\n"
        assert serving.totals().evicted == 0


def test_so_many_connections_are_set_aside_and_no_more() -> None:
    with Serving(pools=POOLS, awaiting_line_max=2) as serving:
        [address] = serving.listen()
        oldest, *owing = [connect(address) for _ in range(3)]
        assert said(oldest) == b"up 75%\n", "one too many: who has owed for longest makes room"
        for poll in owing:
            poll.sendall(b"mail\n")
        assert [said(poll) for poll in owing] == [b"up 20%\n"] * 2
        assert serving.totals().evicted == 1


def test_who_owes_the_line_when_a_listener_goes_is_still_answered() -> None:
    with Serving(pools=POOLS) as serving:
        [address] = serving.listen()
        connected = threading.Event()
        accepted = connect(address)

        def remove() -> None:
            # The loop is kept busy, so that the next poll is still in the backlog when the listener goes.
            connected.wait(DEADLINE_S)
            serving.server.remove(serving.listeners[0])

        removal = threading.Thread(target=serving.do, args=(remove,))
        removal.start()
        backlog = connect(address)
        connected.set()
        removal.join()
        for poll in (accepted, backlog):
            poll.sendall(b"mail\n")
            assert said(poll) == b"up 20%\n"
        with pytest.raises(ConnectionRefusedError):
            connect(address)


def test_at_the_end_all_who_wait_or_owe_are_answered() -> None:
    with Serving(lambda: True, pools=POOLS, wait_at_most_s=3600) as serving:
        [address] = serving.listen()
        polls = [connect(address), connect(address, b"mail\n")]
        serving.do(serving.server.close)
        assert [said(poll) for poll in polls] == [b"up 75%\n", b"up 20%\n"]


def test_polls_wait_for_a_better_answer_and_get_it() -> None:
    with Serving(lambda: True, wait_at_most_s=3600) as serving:
        [address] = serving.listen()
        polls = [connect(address) for _ in range(5)]
        serving.say(b"up 10%\n")
        serving.server.ask = lambda: False
        serving.do(serving.server.resume)
        assert [said(poll) for poll in polls] == [b"up 10%\n"] * 5


def test_a_wait_ends_with_the_newest_answer_there_is_though_nothing_better_comes() -> None:
    with Serving(lambda: True) as serving:
        [address] = serving.listen()
        assert ask(address) == b"up 75%\n"


def test_who_has_waited_in_vain_is_not_made_to_wait_again_until_something_came() -> None:
    with Serving(lambda: True, wait_at_most_s=0.05) as serving:
        [address] = serving.listen()
        assert ask(address) == b"up 75%\n"
        serving.server.wait_at_most_s = 3600
        assert [ask(address) for _ in range(3)] == [b"up 75%\n"] * 3
        serving.do(serving.server.resume)
        waiting = connect(address)
        waiting.setblocking(False)
        serving.say(b"up 10%\n")
        serving.server.ask = lambda: False
        serving.do(serving.server.resume)
        waiting.settimeout(DEADLINE_S)
        assert said(waiting) == b"up 10%\n"


def test_who_is_left_of_those_who_waited_in_vain_is_answered_with_what_came() -> None:
    with Serving(lambda: True, wait_at_most_s=0.05) as serving:
        [address] = serving.listen()
        assert ask(address) == b"up 75%\n"
        serving.server.wait_at_most_s = 3600
        busy, connected = threading.Event(), threading.Event()

        def end_a_scan() -> None:
            # The loop is kept busy, so that the polls are still in the backlog when it has an answer.
            busy.set()
            connected.wait(DEADLINE_S)
            serving.say(b"up 10%\n")
            serving.server.resume()

        scan = threading.Thread(target=serving.do, args=(end_a_scan,))
        scan.start()
        busy.wait(DEADLINE_S)
        polls = [connect(address) for _ in range(3)]
        connected.set()
        scan.join()
        assert [said(poll) for poll in polls] == [b"up 10%\n"] * 3


def test_while_the_answer_is_settled_nobody_is_asked_for_it() -> None:
    asked: list[bool] = []

    def never_wait() -> bool:
        asked.append(True)
        return False

    with Serving(never_wait) as serving:
        [address] = serving.listen()
        serving.do(serving.answerer.settle, time.clock_gettime(time.CLOCK_BOOTTIME) + 3600)
        assert ask(address) == b"up 75%\n"
        assert asked == []
        serving.do(serving.answerer.settle, 0.0)
        assert ask(address) == b"up 75%\n"
        assert asked == [True]


def test_waiting_at_most_0_is_never_waiting() -> None:
    with Serving(lambda: True, wait_at_most_s=0) as serving:
        [address] = serving.listen()
        assert ask(address) == b"up 75%\n"


def test_a_thousand_polls_of_one_moment_cost_one_scan() -> None:
    scans = []
    cache: Cache[str] = Cache(Pace(0.5, 0.25, 0.05, 30), lambda: 1000.0, lambda: scans.append(1))
    with Serving(cache.poll, wait_at_most_s=3600) as serving:
        [address] = serving.listen()
        polls = [connect(address) for _ in range(1000)]
        serving.say(b"up 10%\n")
        serving.do(cache.done, "sample", 1000.0, 0.001)
        serving.do(serving.server.resume)
        assert {said(poll) for poll in polls} == {b"up 10%\n"}
        assert len(scans) == 1


def test_polls_are_answered_though_no_file_descriptor_is_free() -> None:
    with Serving() as serving:
        [listener] = open_listeners([("127.0.0.1", 0)], 64).values()
        polls = [connect(listener.getsockname()) for _ in range(20)]
        with descriptors_left(0):
            serving.do(serving.server.add, listener)
            assert [poll.recv(64) for poll in polls] == [b"up 75%\n"] * 20
        assert serving.totals().no_fds >= 1
        assert ask(listener.getsockname()) == b"up 75%\n"
        for poll in polls:
            poll.close()


def test_polls_that_cannot_be_accepted_wait_in_the_backlog_until_they_can() -> None:
    with Serving(pools=POOLS) as serving:
        [listener] = open_listeners([("127.0.0.1", 0)], 64).values()
        polls = [connect(listener.getsockname()) for _ in range(3)]
        with descriptors_left(0):
            # The first takes the descriptor kept in reserve, and owes its line; the others must wait for it.
            serving.do(serving.server.add, listener)
            polls[0].sendall(b"mail\n")
            assert polls[0].recv(64) == b"up 20%\n"
        for poll in polls[1:]:
            poll.sendall(b"shop\n")
            assert said(poll) == b"up 40%\n"
        polls[0].close()


def test_who_waited_is_answered_though_every_poll_wants_a_scan_of_its_own() -> None:
    asked = threading.Event()

    def wait() -> bool:
        asked.set()
        return True

    with Serving(wait, wait_at_most_s=3600) as serving:
        [address] = serving.listen()
        waiting = connect(address)
        assert asked.wait(DEADLINE_S)
        serving.say(b"up 10%\n")
        serving.do(serving.server.resume)
        assert said(waiting) == b"up 10%\n"
