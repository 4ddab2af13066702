"""A real HAProxy on loopback, web servers behind it, and clients.

It is the one of this machine, or the first of BUSYWEIGHT_HAPROXIES: JSON, as [["/opt/haproxy", "-dS"], ["haproxy"]].
"""

import csv
import io
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from tests.missing import need

_NAMED = os.environ.get("BUSYWEIGHT_HAPROXIES")
HAPROXIES: list[list[str]] = json.loads(_NAMED) if _NAMED else [[need("haproxy", "haproxy")]]

DEADLINE_S = 20.0
Row = dict[str, str]


def haproxy(*words: str, command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """HAProxy's output for these arguments."""
    return subprocess.run([*(command or HAPROXIES[0]), *words], capture_output=True, text=True, check=False)


def version() -> tuple[int, ...]:
    found = re.search(r"version (\d+)\.(\d+)", haproxy("-v").stdout)
    assert found
    return int(found[1]), int(found[2])


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


class Balancer:
    """A running HAProxy and its statistics socket."""

    def __init__(self, directory: Path, *texts: str) -> None:
        self.socket = directory / "stats.sock"
        files = [f"global\n stats socket {self.socket} level admin\n nbthread 1\n", *texts]
        self.command = [*HAPROXIES[0], "-db"]
        for index, text in enumerate(files):
            (directory / f"{index}.cfg").write_text(text)
            self.command += ["-f", str(directory / f"{index}.cfg")]

    @contextmanager
    def running(self) -> Iterator["Balancer"]:
        log = self.socket.with_name("haproxy.log")
        with log.open("w") as stderr:
            process = subprocess.Popen(self.command, stderr=stderr)
        try:
            eventually(lambda: process.poll() is not None or self._listens())
            assert process.poll() is None, log.read_text()
            # It answers only once all its other sockets are there, too.
            self.ask("show info")
            yield self
        finally:
            process.kill()
            process.wait()

    def _listens(self) -> bool:
        """The socket's file is there before anybody may connect."""
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            client.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: client.recv(65536), b"")).decode()

    def stat(self, proxy: str, name: str) -> Row:
        rows = csv.DictReader(io.StringIO(self.ask("show stat")))
        return next(row for row in rows if (row["# pxname"], row["svname"]) == (proxy, name))

    def servers(self) -> list[Row]:
        lines = self.ask("show servers state").splitlines()[1:]
        header = lines[0].lstrip("# ").split()
        return [dict(zip(header, line.split(), strict=False)) for line in lines[1:] if line]


class Peer:
    """A server of one answer per connection, on a free port of loopback; it keeps what it was sent.

    One that listens waits for a line before it answers, and all wait while their gate is shut.
    """

    def __init__(self, answer: bytes, *, listens: bool = False) -> None:
        self.answer = answer
        self.received: set[bytes] = set()
        self.gate = threading.Event()
        self.gate.set()
        self._listens = listens
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            connection.settimeout(DEADLINE_S)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # HAProxy may be ended, or close a mere check, at any time.
        with connection, suppress(OSError):
            if self._listens:
                self.received.add(connection.recv(4096))
            self.gate.wait(DEADLINE_S)
            connection.sendall(self.answer)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(4096)


def website() -> Peer:
    return Peer(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", listens=True)


def asking(path: Path, url: str = "/") -> socket.socket:
    """A client whose request is under way."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    with suppress(OSError):
        client.sendall(f"GET {url} HTTP/1.0\r\nHost: web\r\n\r\n".encode())
    return client


def status_of(path: Path, url: str = "/") -> int:
    """The status of one request; 0 if there is no answer, as in TCP mode without a server."""
    with asking(path, url) as client:
        try:
            answer = client.recv(4096)
        except OSError:
            answer = b""
    return int(answer.split()[1]) if answer else 0


def bound_to(directory: Path, *texts: str) -> list[str]:
    """The texts with every `bind` on a socket of its own, front0.sock and so on: tests need no ports."""
    numbers = count()

    def own(match: re.Match[str]) -> str:
        return f"{match[1]} unix@{directory}/front{next(numbers)}.sock"

    return [re.sub(r"(?m)^(\s+bind) \S+", own, text) for text in texts]
