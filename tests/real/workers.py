"""Real workers: Redis, the Sidekiqs that take their jobs from it, and what their titles say.

Titles are read here by rules of their own, independently of the code under test.
"""

import json
import os
import re
import secrets
import signal
import time
from pathlib import Path
from typing import ClassVar, NamedTuple

from tests.matrix.trees import Tree

from .part import Part

HERE = Path(__file__).parent

# Sidekiq writes its title at each heartbeat, every 5 s before 7.0 and every 10 s since; a loaded machine is slower.
TITLE_DEADLINE_S = 30.0
TAKEN_DEADLINE_S = 5.0


class Redis(Part):
    """On a unix socket alone; nothing is written to disk."""

    STOP: ClassVar = ((signal.SIGKILL, 5.0),)

    def __init__(self, home: Path, debian: Tree | None = None) -> None:
        super().__init__("redis", home, debian)
        self.server = self.need("redis-server", "redis-server")
        self.cli = self.need("redis-cli", "redis-tools")
        self.socket = self.home / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def argv(self) -> list[str]:
        return [
            self.server,
            "--port",
            "0",
            "--unixsocket",
            str(self.socket),
            "--save",
            "",
            "--dir",
            str(self.home),
        ]

    def ready(self) -> bool:
        return self.socket.exists() and self.command("PING") == "PONG"

    def command(self, *words: str) -> str:
        """One command and its answer as redis-cli prints it, one line for each element."""
        return self.call(self.cli, "-s", str(self.socket), *words).stdout.strip()


class Title(NamedTuple):
    """What a worker's title says."""

    busy: int
    threads: int
    stopping: bool


def cmdline(pid: int) -> bytes:
    """A process's command line as the kernel gives it; empty for one that is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def title(pid: int) -> Title | None:
    """What stands in the title now; None where no worker's title stands."""
    text = cmdline(pid).split(b"\0")[0]
    match = re.fullmatch(rb"sidekiq \d.*\[(\d+) of (\d+) busy\]( stopping)?", text)
    return match and Title(int(match[1]), int(match[2]), match[3] is not None)


def sidekiqs_here() -> dict[int, bytes]:
    """Everything on this machine that is, becomes or looks like a Sidekiq: command lines by pid."""
    found = {}
    for pid in [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]:
        line = cmdline(pid)
        programs = [word.rsplit(b"/")[-1] for word in line.split(b"\0")[:3]]
        if line.startswith(b"sidekiq ") or b"sidekiq" in programs:
            found[pid] = line.rstrip(b"\0")
    return found


class Sidekiq(Part):
    """One Sidekiq of `threads` threads with a queue of its own, whose jobs (jobs.rb) last until told.

    `tag` is given on the command line, where the title then always fits; `long_tag` in a
    configuration file, so that the title outgrows the command line. `by_ruby` starts it as
    `ruby …/sidekiq`, which makes its comm `ruby`. With `capsules` (from 7.0 on) so many more threads
    wait at other queues.
    """

    # A SIGTERM would wait for jobs that last until told. Jobs are lost with it, here that is well.
    STOP: ClassVar = ((signal.SIGKILL, 5.0),)

    def __init__(
        self,
        name: str,
        redis: Redis,
        *,
        threads: int = 1,
        long_tag: str = "",
        by_ruby: bool = False,
        capsules: int = 0,
        debian: Tree | None = None,
    ) -> None:
        super().__init__(name, redis.home.parent, debian)
        self.program = self.need("sidekiq", "ruby-sidekiq")
        self.ruby = [self.need("ruby", "ruby")] if by_ruby else []
        self.redis = redis
        self.threads = threads + capsules
        self.config_file = self.home / "sidekiq.yml"
        tag = f":tag: {json.dumps(long_tag)}\n" if long_tag else ""
        of_capsule = (
            f":capsules:\n  more:\n    :concurrency: {capsules}\n    :queues: [{name}-more]\n" if capsules else ""
        )
        self.config_file.write_text(f":concurrency: {threads}\n{tag}{of_capsule}")
        self.tag = [] if long_tag else ["-g", name]
        self.held = 0

    def argv(self) -> list[str]:
        options = ["-r", str(HERE / "jobs.rb"), "-q", self.name, "-C", str(self.config_file), *self.tag]
        return [*self.ruby, self.program, *options]

    def environment(self) -> dict[str, str]:
        # Ruby writes titles over argv and environ and cuts them at the end of both: make room.
        room = {"ROOM_FOR_TITLES": "x" * 1024}
        return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "REDIS_URL": self.redis.url, **room}

    def ready(self) -> bool:
        return title(self.pid) == Title(0, self.threads, False)

    def title(self) -> Title | None:
        return title(self.pid)

    def hold(self, jobs: int = 1, kind: str = "Holding") -> None:
        """Put more jobs on the queue; each keeps one thread busy until released."""
        self.redis.command("SADD", "queues", self.name)
        for _ in range(jobs):
            now_s = time.time()
            job = {
                "class": kind,
                "args": [self.name],
                "queue": self.name,
                "jid": secrets.token_hex(12),
                "retry": False,
                "created_at": now_s,
                "enqueued_at": now_s,
            }
            self.redis.command("LPUSH", f"queue:{self.name}", json.dumps(job))
        self.held += jobs

    def release(self, jobs: int = 1) -> None:
        """End as many of the jobs held."""
        for _ in range(jobs):
            self.redis.command("LPUSH", f"release:{self.name}", "now")
        self.held -= jobs

    def make(self, busy: int) -> None:
        """Hold or release what makes `busy` threads busy; the title says so at the next heartbeat."""
        if busy > self.held:
            self.hold(busy - self.held)
        else:
            self.release(self.held - busy)

    def fork(self) -> int:
        """Let a held `Forking` job fork; the pid of its child, which lives as long as the job."""
        self.redis.command("LPUSH", f"fork:{self.name}", "now")
        answer = self.redis.command("BLPOP", f"forked:{self.name}", "10").split()
        assert answer, f"no child was forked\n{self.evidence()}"
        return int(answer[-1])

    def wait_taken(self) -> None:
        """Until a thread has taken every job put on the queue; the title may not say so yet."""
        self.until(lambda: self.redis.command("LLEN", f"queue:{self.name}") == "0", "at its jobs", TAKEN_DEADLINE_S)

    def wait_title(self, busy: int, stopping: bool = False, deadline_s: float = TITLE_DEADLINE_S) -> None:
        expected = Title(busy, self.threads, stopping)
        self.until(lambda: self.title() == expected, f"showing {expected}", deadline_s)

    def evidence(self) -> str:
        return f"{self.name} says {cmdline(self.pid) if self.process else b''!r}\n{super().evidence()}"
