"""One version of Sidekiq, its HAProxy and the agent between them: enqueues jobs, and watches weights.

Nothing here is modelled. This module must never judge what it measures.
"""

import contextlib
import itertools
import json
import random
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.matrix.trees import Haproxy, Tree
from tests.real.parts import DEFAULTS, Agent, HAProxy, Redis, Sidekiq

from benches.now.judge import FREE, Job, Seen

HERE = Path(__file__).parent
AGENT_INTER_S, FRESH_FOR_S = 0.25, 0.125
HEARTBEAT_S = 5.0  # since 7.0 every second time
THREADS = 5
LOOK_EVERY_S = 0.004
SETTLED_S = 2.0  # no worker may count for this long before jobs begin, and after each
PATIENCE_S = 60.0  # more than two heartbeats

AGENT = f"""
[scan]
fresh_for = "{FRESH_FOR_S * 1000:.0f}ms"
[weight]
capacity = 2
"""
BALANCER = """
backend web
    server host 127.0.0.1:1 weight 100 agent-check agent-port {port} agent-inter {inter_ms:.0f}ms
"""


@dataclass(frozen=True)
class Version:
    """Where the real parts come from: a Debian tree, or this machine if there is none."""

    sidekiq: str
    tree: Tree | None = None
    haproxy: Haproxy | None = None


@dataclass(frozen=True)
class Kind:
    """What a job does, for how long, and whether titles are live."""

    does: str
    live: bool
    lasts_s: float = 2.0


class Worker(Sidekiq):
    """A Sidekiq whose jobs use CPU or wait for a given time, and keep a journal."""

    def __init__(self, name: str, redis: Redis, tree: Tree | None, *, live: bool) -> None:
        super().__init__(name, redis, threads=THREADS, debian=tree)
        self.live = live
        self.journal = self.home / "journal"
        self.journal.touch()

    def argv(self) -> list[str]:
        return [self.program, "-r", str(HERE / "jobs.rb"), "-q", self.name, "-C", str(self.config_file), *self.tag]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"JOURNAL": str(self.journal)} | ({"LIVE": "1"} if self.live else {})

    def give(self, kind: Kind) -> None:
        """Puts one job on the queue, where a thread waits for it."""
        now_s = time.time()
        job = {
            "class": "Timed",
            "args": [kind.does, kind.lasts_s],
            "queue": self.name,
            "jid": secrets.token_hex(12),
            "retry": False,
            "created_at": now_s,
            "enqueued_at": now_s,
        }
        _push(self.redis.socket, f"queue:{self.name}", json.dumps(job))

    def jobs(self) -> list[Job]:
        """The jobs that have ended, as they report it."""
        lines = [line.split() for line in self.journal.read_text().splitlines()]
        times = {what: [float(at) for word, at in lines if word == what] for what in ("began", "ended")}
        return [Job(*each) for each in zip(times["began"], times["ended"], strict=False)]


def _push(place: Path, key: str, value: str) -> None:
    """LPUSH, without a process for it: the jobs' CPU is what is measured."""
    words = [word.encode() for word in ("LPUSH", key, value)]
    line = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place))
        connection.sendall(line)
        answer = connection.recv(64)
    if not answer.startswith(b":"):
        raise RuntimeError(f"redis answers {answer!r}")


class Watch:
    """HAProxy's weight, queried every few milliseconds: each change, and when it was first seen."""

    def __init__(self, haproxy: HAProxy) -> None:
        self._haproxy = haproxy
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.seen: list[Seen] = []
        self.failure: OSError | None = None

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.is_set():
            try:
                weight = int(self._haproxy.command("show stat web 4 -1").splitlines()[1].split(",")[18])
            except OSError as failure:
                self.failure = failure
                return
            if not self.seen or self.seen[-1].weight != weight:
                self.seen.append(Seen(time.monotonic(), weight))
            self._stop.wait(LOOK_EVERY_S)

    def until_free(self, since_s: float) -> None:
        """Waits until no worker has counted for a while, in what was seen since then."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s and self.failure is None:
            time.sleep(0.05)
            quiet_since_s = max(since_s, self.seen[-1].at_s if self.seen else since_s)
            if self.seen and self.seen[-1].weight == FREE and time.monotonic() - quiet_since_s > SETTLED_S:
                return
        raise RuntimeError(f"the weight does not settle: {self.failure or self.seen[-5:]}")


class Rig:
    """The parts of one version, running; Sidekiqs come and go with the kinds of jobs."""

    def __init__(self, version: Version, home: Path) -> None:
        self.version = version
        self._home = home
        self._names = itertools.count()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Rig":
        with contextlib.ExitStack() as stack:
            self.redis = stack.enter_context(Redis(self._home, self.version.tree))
            self.agent = stack.enter_context(Agent(self._home, AGENT))
            config = DEFAULTS + BALANCER.format(port=self.agent.port, inter_ms=AGENT_INTER_S * 1000)
            self.haproxy = stack.enter_context(HAProxy(self._home, config, of=self.version.haproxy))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def workers(self, *, live: bool) -> Iterator[Worker]:
        """Starts a worker that takes jobs, and another that never has any; yields the first."""
        number = next(self._names)
        takes, rests = (
            Worker(f"{what}{number}", self.redis, self.version.tree, live=live) for what in ("jobs", "idle")
        )
        with takes, rests:
            yield takes

    def turn(self, worker: Worker, kind: Kind, jobs: int, dice: random.Random) -> tuple[list[Job], list[Seen]]:
        """Runs so many jobs one after the other, each beginning at a random time within HAProxy's interval and, without
        live titles, within Sidekiq's heartbeat."""
        before = len(worker.jobs())
        with Watch(self.haproxy) as watch:
            watch.until_free(time.monotonic())
            del watch.seen[:-1]
            for number in range(1, jobs + 1):
                time.sleep(dice.random() * (AGENT_INTER_S if kind.live else HEARTBEAT_S))
                worker.give(kind)
                worker.until(lambda: len(worker.jobs()) >= before + number, "done with its job", PATIENCE_S)  # noqa: B023
                watch.until_free(worker.jobs()[-1].ended_s)
        return worker.jobs()[before:], watch.seen
