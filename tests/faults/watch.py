"""A real HAProxy that watches an agent through a fault, and counts each check that fails."""

import re
from pathlib import Path

from tests.real.parts import DEFAULTS, HAProxy, Listener, until


class Watch(HAProxy):
    """Many servers in one backend, all weighed by one agent. Every check must finish within `agent-inter`, HAProxy's
    own deadline: a late reply is a failed check."""

    def __init__(self, home: Path, agent: Listener, *, servers: int = 10, inter_ms: int = 500, send: str = "") -> None:
        check = f"agent-check agent-addr 127.0.0.1 agent-port {agent.port} agent-inter {inter_ms}ms"
        line = f"    server s%d 127.0.0.1:9 weight 100 {check} {send}\n"
        backend = "backend web\n    option log-health-checks\n" + "".join(line % n for n in range(servers))
        super().__init__(home, DEFAULTS + backend, name="watch")

    def failed(self) -> list[str]:
        """HAProxy's log lines about failed agent checks."""
        return re.findall(r".*Agent check.*fail.*", self.log_text())

    def weights(self) -> set[int]:
        return {int(row["weight"]) for row in self.servers("web").values()}

    def shows(self, status: str, weight: int | None) -> bool:
        """Whether all servers have this status (`UP`: neither down, drained nor in maintenance) and, but for None,
        this weight."""
        rows = self.servers("web").values()
        statuses = {row["status"].removesuffix(" (agent)") for row in rows}
        as_wanted = statuses <= ({"UP", "no check"} if status == "UP" else {status})
        return as_wanted and (weight is None or {int(row["weight"]) for row in rows} == {weight})

    def wait_weights(self, weight: int, deadline_s: float = 20.0) -> None:
        self.wait_shown("UP", weight, deadline_s)

    def wait_shown(self, status: str, weight: int | None, deadline_s: float) -> None:
        def evidence() -> str:
            return f"{self.weights()} {self.servers('web')}\n{self.evidence()}"

        until(lambda: self.shows(status, weight), f"all {status} at {weight}", deadline_s, evidence)
