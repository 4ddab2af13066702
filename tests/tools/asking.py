"""Runs `busyweight doctor`, and collects its findings."""

import socket
import threading
from collections.abc import Callable
from typing import Any, Self

from tests.tree import TreeAgent

DEADLINE_S = 10.0


class Asked:
    """The findings of one doctor run."""

    def __init__(self, code: int, told: dict[str, Any]) -> None:
        self.code = code
        self.ok: bool = told["ok"]
        self.checks: list[dict[str, str]] = told["checks"]

    def states(self, check: str) -> list[str]:
        return [one["state"] for one in self.checks if one["check"] == check]

    def said(self, check: str) -> str:
        """All lines of one check: the state, what was found, the remedy."""
        return "\n".join(f"{c['state']} {c['what']} -> {c['remedy']}" for c in self.checks if c["check"] == check)


Doctor = Callable[..., Asked]


def write(agent: TreeAgent, config: str) -> None:
    """The configuration beside the tree and the port."""
    agent.write_config(f'{config}\n[scan]\nprocfs = "{agent.tree}"\n')


class Impostor:
    """Listens where an agent should, and does something else; None: closes without a reply."""

    def __init__(self, answer: bytes | None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._answer = answer
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.recv(100)
            connection.sendall(self._answer or b"")
