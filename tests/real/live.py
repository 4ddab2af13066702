"""Workers whose titles are live: a Sidekiq of this machine or of another Debian, with contrib/sidekiq_live_title.rb.

Its heartbeat beats once, at the start, and then when it is told: what its title says in between comes from live titles.
"""

from __future__ import annotations

from pathlib import Path

from tests.matrix.trees import Tree

from .workers import Redis, Sidekiq, cmdline

HERE = Path(__file__).parent


class LiveSidekiq(Sidekiq):
    """One Sidekiq, that of `tree` or else this machine's, with the application live.rb, which reads `more` from the
    environment."""

    def __init__(
        self,
        name: str,
        redis: Redis,
        *,
        tree: Tree | None = None,
        threads: int = 3,
        tag: str = "shop",
        timeout_s: int = 25,
        **more: str,
    ) -> None:
        super().__init__(name, redis, threads=threads)
        self.tree = tree
        self.config_file.write_text(f":concurrency: {threads}\n")
        self.tag = ["-g", tag]
        self.timeout_s = timeout_s
        self.more = more
        self.before = b""

    def argv(self) -> list[str]:
        options = ["-r", str(HERE / "live.rb"), "-q", self.name, "-C", str(self.config_file), "-t", str(self.timeout_s)]
        if self.tree is None:
            return [self.program, *options, *self.tag]
        return self.tree.argv(["sidekiq", *options, *self.tag], env=self.environment(), cwd=self.home)

    def environment(self) -> dict[str, str]:
        return super().environment() | {"NAME": self.name} | self.more

    def ready(self) -> bool:
        found = self.whole_title().rpartition(b"[0 of ")
        self.before = found[0]
        return bool(found[1]) and self.before.startswith(b"sidekiq ")

    def whole_title(self) -> bytes:
        return cmdline(self.pid).split(b"\0")[0]

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
