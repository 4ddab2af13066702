"""Workers whose titles are live, by the files of contrib/: Sidekiqs of this machine or of another Debian, and programs
that perform ActiveJobs.

The Sidekiqs' hearts beat once, at the start, and then when they are told: what their titles say in between comes from
live titles.
"""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path

from tests.matrix.trees import Tree
from tests.missing import missing

from .part import Part, free_port
from .presets import Told
from .workers import Redis, Sidekiq, cmdline

HERE = Path(__file__).parent


def need_activejob(ruby: str) -> None:
    """As `need`, for a library."""
    found = subprocess.run([ruby, "-r", "active_job", "-e", ""], capture_output=True, check=False).returncode == 0
    if not found:
        missing("ActiveJob is not installed: apt install ruby-activejob")


class LiveSidekiq(Sidekiq):
    """One Sidekiq with the application live.rb, which reads `more` from the environment."""

    def __init__(
        self,
        name: str,
        redis: Redis,
        *,
        debian: Tree | None = None,
        threads: int = 3,
        tag: str = "shop",
        timeout_s: int = 25,
        **more: str,
    ) -> None:
        super().__init__(name, redis, threads=threads, debian=debian)
        self.config_file.write_text(f":concurrency: {threads}\n")
        self.tag = ["-g", tag]
        self.timeout_s = timeout_s
        self.more = more
        self.before = b""

    def argv(self) -> list[str]:
        options = ["-r", str(HERE / "live.rb"), "-q", self.name, "-C", str(self.config_file), "-t", str(self.timeout_s)]
        return [self.program, *options, *self.tag]

    def environment(self) -> dict[str, str]:
        return super().environment() | {"NAME": self.name} | self.more

    def ready(self) -> bool:
        found = self.whole_title().rpartition(b"[0 of ")
        self.before = found[0]
        return bool(found[1]) and self.before.startswith(b"sidekiq ")

    def whole_title(self) -> bytes:
        return cmdline(self.pid).split(b"\0")[0]

    def shows(self, words: bytes) -> bool:
        return words in self.whole_title()

    def wait_says(self, words: str, deadline_s: float = 10.0) -> None:
        """Until the title is what it was at the start, but for the bracket and what follows."""
        expected = self.before + words.encode()
        self.until(lambda: self.whole_title() == expected, f"titled {expected!r}", deadline_s)

    def tell(self, what: str, times: int = 1) -> None:
        """`beat`, `release`, `linger` or `exit`: see live.rb."""
        self.redis.command("LPUSH", f"{what}:{self.name}", *["now"] * times)

    def said(self) -> str:
        """The next word of a job, once it comes."""
        answer = self.redis.command("BLPOP", f"said:{self.name}", "10").splitlines()
        assert answer, f"no job said anything\n{self.evidence()}"
        return answer[-1]


class EmbeddedSidekiq(LiveSidekiq):
    """Sidekiq inside another program (embedded.rb), which has no title of its own and says its jobs all the same."""

    def argv(self) -> list[str]:
        return [self.need("ruby", "ruby"), str(HERE / "embedded.rb")]

    def ready(self) -> bool:
        self.before = " ".join(self.argv()).encode() + b" | busyweight "
        return "Sidekiq running embedded" in self.log_text()


class ActiveJobs(Told):
    """A program that performs ActiveJobs, told by lines: see active_jobs.rb. `room` is what its title may take of the
    environment."""

    def __init__(self, name: str, home: Path, *, room: int = 1024) -> None:
        super().__init__(name, home)
        self.ruby = self.need("ruby", "ruby")
        need_activejob(self.ruby)
        self.room = room

    def argv(self) -> list[str]:
        return [self.ruby, str(HERE / "active_jobs_told.rb")]

    def environment(self) -> dict[str, str]:
        return {"LANG": "C.UTF-8", "ROOM": "x" * self.room}

    def ready(self) -> bool:
        return "said: ready\n" in self.log_text()

    def wait_title(self, expected: str) -> None:
        def so() -> bool:
            return cmdline(self.pid).split(b"\0")[0] == expected.encode()

        self.until(so, f"titled {expected!r}", 10.0)

    def wait_said(self, words: str) -> None:
        self.until(lambda: f"said: {words}\n" in self.log_text(), f"saying {words!r}", 10.0)

    def evidence(self) -> str:
        return f"{self.name} says {cmdline(self.pid) if self.process else b''!r}\n{super().evidence()}"


class Puma(Part):
    """A cluster of one worker that performs ActiveJobs itself, with all of the application loaded before the fork."""

    def __init__(self, name: str, home: Path) -> None:
        super().__init__(name, home)
        self.program = self.need("puma", "puma")
        need_activejob(self.need("ruby", "ruby"))
        self.port = free_port()

    def argv(self) -> list[str]:
        return [
            self.program,
            *("--workers", "1", "--preload", "--threads", "2:2", "--tag", self.name),
            *("--bind", f"tcp://127.0.0.1:{self.port}", str(HERE / "active_jobs.ru")),
        ]

    def ready(self) -> bool:
        return len(self.workers()) == 1 and "Worker 0 (PID" in self.log_text() and "booted" in self.log_text()

    def workers(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def obey(self, *words: str) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{'/'.join(words)}", timeout=10) as answer:
            assert answer.read() == b"obeyed"
