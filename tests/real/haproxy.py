"""A real HAProxy: any configuration in, its statistics out.

It knows nothing of agents or workers; a test writes the frontends, backends and servers it wants.
"""

import csv
import http.client
import io
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.matrix.trees import Haproxy

from .part import Part, until

# For tests that want no others: short enough that nothing hangs, logging to the part's log.
DEFAULTS = """
defaults
    mode http
    log global
    timeout connect 2s
    timeout client 5s
    timeout server 5s
"""


class Response(NamedTuple):
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class HAProxy(Part):
    """`config` is everything but the global section, which is made here (statistics socket with
    the right to command, log to the part's log); `global_lines` are added to it. `of` is a HAProxy of a
    Debian tree; without it this machine's is started.
    """

    def __init__(
        self,
        home: Path,
        config: str,
        *,
        global_lines: str = "",
        name: str = "haproxy",
        of: Haproxy | None = None,
    ) -> None:
        super().__init__(name, home, of.tree if of else None)
        self.program = of.program if of else self.need("haproxy", "haproxy")
        self.socket = self.home / "stats.sock"
        self.config_file = self.home / "haproxy.cfg"
        self.global_lines = global_lines
        self.write_config(config)

    def write_config(self, config: str) -> None:
        """Takes effect with the next `start`, `restart` or `reload`."""
        stats = f"stats socket {self.socket} mode 600 level admin expose-fd listeners"
        lines = [stats, "log stdout format raw local0 info", *self.global_lines.splitlines()]
        self.config_file.write_text("global\n" + "".join(f"    {line.strip()}\n" for line in lines) + config)

    def argv(self) -> list[str]:
        return [self.program, "-db", "-f", str(self.config_file)]

    def ready(self) -> bool:
        try:
            return bool(self.stat())
        except OSError:
            return False

    def check(self) -> str:
        """HAProxy's own words on the configuration, warnings included; fails if it is refused."""
        done = self.call(*self.argv(), "-c")
        if done.returncode:
            pytest.fail(f"haproxy refuses {self.config_file}:\n{done.stderr}")
        return done.stdout + done.stderr

    def reload(self) -> None:
        """A new process takes the listeners over, the old one ends: what `systemctl reload` does."""
        old = self.process
        assert old is not None, f"{self.name} was not started"
        self.process = self.spawn("-x", str(self.socket), "-sf", str(old.pid))
        try:
            self.until(lambda: old.poll() is not None, "alone, the old process having ended", 10.0)
            self.wait_ready()
        except BaseException:  # pytest's failures are no Exceptions; the old process must not outlive them
            old.kill()
            old.wait()
            raise

    def command(self, line: str) -> str:
        """One command to the statistics socket; its answer without the blank lines around it."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            connection.connect(str(self.socket))
            connection.sendall(line.encode() + b"\n")
            with connection.makefile("rb") as answer:
                return answer.read().decode(errors="replace").strip()

    def change(self, line: str) -> None:
        """A command that answers nothing when it is obeyed (`set server …`, `disable agent …`)."""
        answer = self.command(line)
        assert not answer, f"haproxy answers {line!r} with {answer!r}"

    def stat(self) -> list[dict[str, str]]:
        """`show stat`: one dict per frontend, backend and server, keyed by HAProxy's column names."""
        text = self.command("show stat").removeprefix("# ")
        return [dict(row) for row in csv.DictReader(io.StringIO(text))]

    def servers(self, backend: str) -> dict[str, dict[str, str]]:
        """The rows of one backend's servers, by their names."""
        rows = [row for row in self.stat() if row["pxname"] == backend]
        return {row["svname"]: row for row in rows if row["svname"] not in ("FRONTEND", "BACKEND")}

    def server(self, backend: str, server: str) -> dict[str, str]:
        servers = self.servers(backend)
        assert server in servers, f"{backend} has no server {server!r}, only {sorted(servers)}"
        return servers[server]

    def weight(self, backend: str, server: str) -> int:
        """The weight in force: percent of free capacity where the line says `weight 100`."""
        return int(self.server(backend, server)["weight"])

    def wait_weight(self, backend: str, server: str, expected: int, deadline_s: float) -> None:
        self.wait_server(
            backend, server, f"at weight {expected}", lambda row: row["weight"] == str(expected), deadline_s
        )

    def wait_server(
        self,
        backend: str,
        server: str,
        what: str,
        condition: Callable[[dict[str, str]], bool],
        deadline_s: float,
    ) -> dict[str, str]:
        """The row of `show stat` once the condition holds for it."""
        row: dict[str, str] = {}

        def look() -> bool:
            row.clear()
            row.update(self.server(backend, server))
            return condition(row)

        def evidence() -> str:
            return f"last seen: { {name: value for name, value in row.items() if value} }\n{self.evidence()}"

        until(look, f"{backend}/{server} {what}", deadline_s, evidence)
        return row


def get(port: int, path: str = "/") -> Response:
    """One HTTP request to 127.0.0.1 on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Response(response.status, headers, response.read())
    finally:
        connection.close()
