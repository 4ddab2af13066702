"""What the lint and the snippet take for true, against a real HAProxy on loopback.

It is the one of this machine, or the first of BUSYWEIGHT_HAPROXIES: JSON, as [["/opt/haproxy", "-dS"], ["haproxy"]].
"""

import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count, product
from pathlib import Path

import pytest

from agent.tools.haproxy import lint, snippet
from agent.tools.haproxy.lint import _readings
from agent.tools.haproxy.parse import Configuration, read_files
from agent.tools.haproxy.read import configuration_files

_INSTALLED = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or ""
HAPROXIES: list[list[str]] = json.loads(
    os.environ.get("BUSYWEIGHT_HAPROXIES", json.dumps([[_INSTALLED]] * bool(_INSTALLED)))
)
if not HAPROXIES and os.environ.get("CI") != "true":
    pytest.skip("no haproxy here", allow_module_level=True)

CORPUS = Path(__file__).parent / "haproxy"
# No HAProxy takes it: those before 3.2 do not know a word in it, those after do not want it.
REFUSED = CORPUS / "sound/init_state.cfg"
EVERY = sorted({*(CORPUS / "sound").iterdir(), *(CORPUS / "traps").iterdir()} - {REFUSED})
DEADLINE_S = 20.0
# Set in srv_agent_state where an agent check is configured (haproxy's check-t.h).
CHK_ST_AGENT = 16
Row = dict[str, str]


def check(path: Path) -> subprocess.CompletedProcess[str]:
    return haproxy("-c", "-f", str(path))


def haproxy(*words: str, command: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """What it says to these words."""
    assert HAPROXIES, "haproxy is missing"
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
        assert HAPROXIES, "haproxy is missing"
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


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.name)
def test_haproxy_takes_every_configuration_of_the_corpus(path: Path) -> None:
    result = check(path)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(version() < (3, 2), reason="this HAProxy knows no init-state, or does not mind")
def test_haproxy_refuses_a_server_with_init_state_that_tracks() -> None:
    result = check(REFUSED)
    assert result.returncode == 1
    assert "init-state and tracking" in result.stderr


@pytest.mark.parametrize("pools", [[], ["shop", "mail", "a-b:c.d"]], ids=str)
def test_haproxy_takes_every_snippet_without_a_warning(tmp_path: Path, pools: list[str]) -> None:
    for index, servers in enumerate([[], [("a", "192.0.2.1", 80), ("b", "::1", 80), ("c", "localhost", 80)]]):
        path = tmp_path / f"{index}.cfg"
        path.write_text(snippet(5001, servers, pools, floor_percent=index))
        result = check(path)
        assert result.returncode == 0, result.stderr
        assert "WARNING" not in result.stderr


def differences(configuration: Configuration, rows: list[Row]) -> list[str]:
    """Where our reading of the server lines is not HAProxy's."""
    wrong: list[str] = []
    for proxy in configuration.backends():
        theirs = [row for row in rows if row["be_name"] == proxy.name]
        for server in proxy.servers:
            name = re.compile(re.escape(server.name) + r"\d*")
            same = [row for row in theirs if name.fullmatch(row["srv_name"])]
            theirs = [row for row in theirs if row not in same]
            settings = server.settings
            ours = {(settings.weight or "1", settings.agent, settings.port if settings.agent else "")}
            real = {
                (
                    row["srv_iweight"],
                    agent := bool(int(row["srv_agent_state"]) & CHK_ST_AGENT),
                    row["srv_agent_port"] * agent,
                )
                for row in same
            }
            if ours != real:
                wrong.append(f"{server.at}: {ours} here, {real} in HAProxy")
        wrong += [f"{proxy.name}/{row['srv_name']} is HAProxy's alone" for row in theirs]
    return wrong


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.name)
def test_server_lines_are_read_as_haproxy_reads_them(tmp_path: Path, path: Path) -> None:
    texts = read_files(configuration_files([path]))
    readings = _readings(texts, {})
    with Balancer(tmp_path, *bound_to(tmp_path, *(text for _, text in texts))).running() as balancer:
        rows = balancer.servers()
    assert [] in [differences(reading, rows) for reading in readings], differences(readings[0], rows)


def test_haproxy_does_to_weights_what_the_lint_says(tmp_path: Path) -> None:
    agent, web = Peer(b"0%\n"), website()
    line = f"server s 127.0.0.1:{web.port} agent-check agent-port {agent.port} agent-inter 50ms"
    backends = {
        "of_1": f"{line}",
        "of_50": f"{line} weight 50",
        "of_200": f"{line} weight 200",
        "static": f"balance source\n {line} weight 100",
        "consistent": f"balance source\n hash-type consistent\n {line} weight 100",
        "in_order": f"balance first\n {line} weight 100",
    }
    text = "defaults\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n"
    text += f"frontend f\n bind unix@{tmp_path}/f.sock\n"
    text += "".join(f"backend {name}\n {lines}\n" for name, lines in backends.items())

    def weights() -> dict[str, str]:
        return {name: balancer.stat(name, "s")["weight"] for name in backends}

    with Balancer(tmp_path, text).running() as balancer:
        eventually(lambda: set(weights().values()) == {"0"})
        agent.answer = b"50%\n"
        expected = {
            "of_1": "0",
            "of_50": "25",
            "of_200": "100",
            "static": "0",
            "consistent": "50",
            "in_order": "50",
        }
        eventually(lambda: weights() == expected)


# No request reaches the first, and all go round in the last; the servers of the others have names that nobody resolves.
UNREACHABLE = {"zero_no_frontend.cfg", "inherited.cfg", "weight_template.cfg", "dns_weights.cfg", "spill_loops.cfg"}


@pytest.mark.parametrize("path", [p for p in EVERY if p.name not in UNREACHABLE], ids=lambda p: p.name)
def test_clients_are_turned_away_where_the_lint_says_so_and_nowhere_else(tmp_path: Path, path: Path) -> None:
    agent, web = Peer(b"100%\n"), website()
    # Where an agent-send delays the checks by 200 ms, a shorter interval than that would lose them all.
    texts = [
        re.sub(r"192\.0\.2\.\d+:\d+", f"127.0.0.1:{web.port}", re.sub(r"agent-inter \S+", "", text))
        .replace("agent-check", "agent-check agent-inter 300ms")
        .replace("5001", str(agent.port))
        for _, text in read_files(configuration_files([path]))
    ]

    def weights() -> set[str]:
        ours = [row for row in balancer.servers() if row["srv_agent_port"] == str(agent.port)]
        return {row["srv_uweight"] for row in ours if int(row["srv_agent_state"]) & CHK_ST_AGENT}

    def served() -> set[tuple[Path, str]]:
        asked = product(tmp_path.glob("front*.sock"), ("/", "/api", "/mail", "/assets/x"))
        return {(front, url) for front, url in asked if 0 < status_of(front, url) < 500}

    with Balancer(tmp_path, *bound_to(tmp_path, *texts)).running() as balancer:
        before = served()
        agent.answer = b"0%\n"
        eventually(lambda: weights() <= {"0"})
        lost = before - served()
    assert before, "nobody was served before, so nothing is proved"
    findings = [finding.what for finding in lint([path], {5001}, environment={})]
    said = any(re.search("lose all its servers|has no usable server", what) for what in findings)
    assert bool(lost) == said, lost


@pytest.mark.parametrize("guarded", [True, False], ids=["with fallback", "without"])
def test_when_all_are_busy_the_snippet_serves_from_the_same_servers(tmp_path: Path, guarded: bool) -> None:
    agent, web = Peer(b"up 50% #12/24 busy\n"), website()
    servers = [("a", "127.0.0.1", web.port), ("b", "127.0.0.1", web.port)]
    (text,) = bound_to(tmp_path, snippet(agent.port, servers, agent_inter="50ms"))
    if not guarded:
        text = text.replace("    use_backend web_all_busy", "    # use_backend web_all_busy")
    front = tmp_path / "front0.sock"

    def weights() -> set[str]:
        return {balancer.stat("web", name)["weight"] for name in ("a", "b")}

    with Balancer(tmp_path, text).running() as balancer:
        eventually(lambda: weights() == {"50"})
        assert status_of(front) == 200
        assert balancer.stat("web_all_busy", "BACKEND")["stot"] == "0"
        agent.answer = b"up 0% #30/24 busy\n"
        eventually(lambda: weights() == {"0"})
        assert status_of(front) == (200 if guarded else 503)
        if guarded:
            assert balancer.stat("web_all_busy", "BACKEND")["stot"] == "1"
            agent.answer = b"up 25% #18/24 busy\n"
            eventually(lambda: weights() == {"25"})
            assert status_of(front) == 200
            assert balancer.stat("web_all_busy", "BACKEND")["stot"] == "1"


def test_each_backend_of_the_snippet_names_its_pool_to_the_agent(tmp_path: Path) -> None:
    agent, web = Peer(b"up 0%\n", listens=True), website()
    text = snippet(agent.port, [("a", "127.0.0.1", web.port)], ["shop", "mail"], agent_inter="500ms")
    with Balancer(tmp_path, *bound_to(tmp_path, text)).running() as balancer:
        eventually(lambda: agent.received >= {b"web\n", b"shop\n", b"mail\n"})
        for pool in ("web", "shop", "mail"):
            eventually(lambda pool=pool: balancer.stat(pool, "a")["weight"] == "0")  # type: ignore[misc]
        assert status_of(tmp_path / "front0.sock", "/shop/cart") == 200
        assert balancer.stat("shop_all_busy", "BACKEND")["stot"] == "1"
        assert agent.received == {b"web\n", b"shop\n", b"mail\n"}
