"""How tests of `busyweight serve` query the running agent, and the notifications that systemd would get."""

import socket
import sys
from pathlib import Path

from tests.tree import TreeAgent

DEADLINE_S = 10.0
# Every poll gets a scan of its own.
EAGER = '[scan]\nfresh_for = "0ms"\nmin_gap = "0ms"\nmax_duty = "100%"\nwait_at_most = "900ms"\n'
AT_ONCE = '[reply]\non_stop = "keep"\n'
CAPACITY = "[weight]\ncapacity = 24\n"


def log_lines(agent: TreeAgent) -> list[str]:
    """Without the time stamps."""
    return [line.partition(" ")[2] for line in agent.log_text().splitlines()]


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def begins_with(agent: TreeAgent, statements: str) -> None:
    """The agent runs these lines first: they replace something real with something that fails or hangs."""
    program = f"import sys\nfrom agent import cli\nfrom agent.serve import loop\n{statements}\nsys.exit(cli.main())"
    argv = [sys.executable, "-c", program, *agent.argv()[1:]]
    agent.argv = lambda: argv  # type: ignore[method-assign]


def thread_names(pid: int) -> list[str]:
    names = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except OSError:
            continue
    return names


class Notified:
    """A NOTIFY_SOCKET of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(DEADLINE_S)

    def close(self) -> None:
        self._socket.close()

    def _next(self) -> str:
        return self._socket.recv(4096).decode()

    def next(self) -> str:
        """But for what is said of sockets to keep."""
        while (message := self._next()).startswith("FDSTORE"):
            pass
        return message

    def passed(self) -> tuple[str, socket.socket]:
        """The next message that comes with a socket, and that."""
        while True:
            message, fds, _, _ = socket.recv_fds(self._socket, 4096, 1)
            if fds:
                return message.decode(), socket.socket(fileno=fds[0])

    def drain(self) -> list[str]:
        """What has come until now."""
        came = []
        self._socket.setblocking(False)
        try:
            while True:
                came.append(self._next())
        except BlockingIOError:
            return came
        finally:
            self._socket.settimeout(DEADLINE_S)

    def until(self, message: str) -> None:
        while self._next() != message:
            pass
