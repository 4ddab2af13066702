"""What polls the agent inside a booted machine: a plain poller that sees every answer, and a real HAProxy.

Both run inside, as its network is private. Neither must decide what is right: they report, the tests judge.
"""

from __future__ import annotations

import csv
import io
import socket
import subprocess
from pathlib import Path
from typing import Self

from .host import wait_until
from .machine import Machine
from .software import PYTHON

HERE = Path(__file__).resolve().parent
STATS = "/run/balancer.sock"
BACKENDS = ("web1", "web2", "web3")

# The deadline is `timeout check`, not agent-inter: how long a start takes is no matter here.
_GLOBAL = f"""\
global
    log stdout format raw local0
    stats socket {STATS} mode 600 level admin
defaults
    mode http
    log global
    option log-health-checks
    timeout connect 1s
    timeout client 1s
    timeout server 1s
    timeout check 10s
"""
# Three backends with the same host: each polls for itself, and each must hear every word that counts.
_BACKEND = """\
backend {name}
    balance roundrobin
    server app 127.0.0.1:9 weight 100 agent-check agent-addr 127.0.0.1 agent-port {port} agent-inter 50ms
"""


class Polls:
    """A poller for the time of a `with` block; afterwards `runs` is what it heard, in order."""

    def __init__(self, machine: Machine, port: int = 5001, python: Path = PYTHON) -> None:
        self.runs: list[tuple[int, str]] = []
        machine.copy(HERE / "poller.py", "/run/poller.py")
        self._poller = subprocess.Popen(
            machine.entered(python, "/run/poller.py", str(port)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Polls:
        assert self._poller.stdout is not None
        assert self._poller.stdout.readline() == "polling\n"
        return self

    def __exit__(self, *_: object) -> None:
        said, _nothing = self._poller.communicate("enough\n", timeout=30)
        for line in said.splitlines():
            count, answer = line.split(" ", 1)
            self.runs.append((int(count), answer))

    @property
    def heard(self) -> set[str]:
        """Every answer there was, and in round brackets every failure."""
        return {answer for _, answer in self.runs}

    @property
    def failures(self) -> set[str]:
        """What went wrong instead of an answer."""
        return {answer for answer in self.heard if answer.startswith("(")}


class Balancer:
    """A real HAProxy with three backends, each with one server weighed by the agent; or with the proxies told."""

    UNIT = "balancer.service"

    def __init__(self, machine: Machine, port: int = 5001, proxies: str = "") -> None:
        self._machine = machine
        proxies = proxies or "".join(_BACKEND.format(name=name, port=port) for name in BACKENDS)
        machine.write("/run/balancer.cfg", _GLOBAL + proxies)

    def __enter__(self) -> Self:
        self._machine.run("systemd-run", f"--unit={self.UNIT}", "haproxy", "-db", "-f", "/run/balancer.cfg")
        wait_until(lambda: self._machine.path(STATS).is_socket(), "HAProxy is up")
        return self

    def __exit__(self, *_: object) -> None:
        self._machine.run("systemctl", "stop", self.UNIT)
        self._machine.path(STATS).unlink(missing_ok=True)

    def ask(self, command: str) -> str:
        """The answer to one command on HAProxy's statistics socket."""
        with socket.socket(socket.AF_UNIX) as stats:
            stats.settimeout(10)
            stats.connect(str(self._machine.path(STATS)))
            stats.sendall(command.encode() + b"\n")
            return stats.makefile().read()

    def stat(self) -> list[dict[str, str]]:
        """The lines of `show stat`."""
        return list(csv.DictReader(io.StringIO(self.ask("show stat").removeprefix("# "))))

    def servers(self) -> list[dict[str, str]]:
        """The `show stat` line of the server, in each backend."""
        return [line for line in self.stat() if line["svname"] == "app"]

    def weights(self) -> list[int]:
        """The server's weight in per cent of its own, in each backend."""
        return [int(line["weight"]) for line in self.servers()]

    def wait_for_weight(self, percent: int) -> None:
        """Wait until every backend has heard this weight."""
        wait_until(lambda: self.weights() == [percent] * len(BACKENDS), f"{percent} % in every backend")

    def log(self) -> str:
        """What HAProxy has logged since it was started."""
        started = self._machine.show(self.UNIT, "InvocationID")
        self._machine.run("journalctl", "--sync")
        return self._machine.run("journalctl", "--no-pager", "--output=cat", f"_SYSTEMD_INVOCATION_ID={started}").stdout
