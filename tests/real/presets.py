"""Workers that are no Sidekiqs: rq, PostgreSQL, and a program with a title of its own.

Each can be made busy and idle, and knows nothing of the agent.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from signal import SIGINT, SIGKILL
from typing import ClassVar

import pytest

from tests.matrix.trees import Tree
from tests.missing import need

from .part import Part
from .workers import Redis, cmdline

HERE = Path(__file__).parent


class Rq(Part):
    """One rq worker with a queue of its own; `kind` is rq's class of worker."""

    STOP: ClassVar = ((SIGKILL, 5.0),)

    def __init__(self, name: str, redis: Redis, kind: str = "rq.worker.Worker", debian: Tree | None = None) -> None:
        super().__init__(name, redis.home.parent, debian)
        self.program = debian.program("rq") if debian else str(Path(sys.executable).parent / "rq")
        self.redis = redis
        self.kind = kind

    def argv(self) -> list[str]:
        return [self.program, "worker", "-u", self.redis.url, "-w", self.kind, "-n", self.name, self.name]

    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(HERE)}

    def ready(self) -> bool:
        listening = f": Listening on {self.name}".encode()
        return cmdline(self.pid).startswith((b"rq" + listening, f"rq:worker:{self.name}".encode() + listening))

    def hold(self) -> None:
        """A job that lasts until released."""
        words = ["-u", self.redis.url, "-q", self.name, "rq_jobs.hold", self.redis.url, f"release:{self.name}"]
        self.call(self.program, "enqueue", *words).check_returncode()

    def release(self) -> None:
        self.redis.command("LPUSH", f"release:{self.name}", "now")

    def horses(self) -> list[int]:
        """The children that do its jobs."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def stop(self) -> None:
        # A horse leads a process group of its own, and outlives its worker.
        horses = self.horses() if self.running else []
        super().stop()
        for horse in horses:
            os.kill(horse, SIGKILL)


class Postgres(Part):
    """A private cluster on a unix socket. The server refuses to be root, and a test's own
    directory is root's alone, so as root it is the user postgres in a directory of its own."""

    STOP: ClassVar = ((SIGINT, 20.0), (SIGKILL, 5.0))

    def __init__(self, cluster: str = "", debian: Tree | None = None) -> None:
        # A tree shows the machine's /tmp, and no other place for scratch files.
        home = tempfile.mkdtemp(prefix="pg-", dir="/tmp" if debian else None)  # noqa: S108
        super().__init__("postgres", Path(home), debian)
        root = debian.path if debian else Path("/")
        programs = sorted(root.glob("usr/lib/postgresql/*/bin"))
        self.programs = (
            "/" / programs[-1].relative_to(root) if programs else Path(need("postgres", "postgresql")).parent
        )
        self.user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        self.cluster = cluster
        self.data = self.home / "data"
        if os.geteuid() == 0:
            self.call("chown", self.user, str(self.home.parent), str(self.home)).check_returncode()
        words = ["initdb", "-D", str(self.data), "-A", "trust", "-U", "postgres", "--no-sync"]
        done = self.call(*self._as_user(*words))
        if done.returncode:
            pytest.fail(f"initdb: {done.stdout}{done.stderr}")

    def _as_user(self, program: str, *words: str) -> list[str]:
        user = ["setpriv", "--reuid", self.user, "--regid", self.user, "--init-groups"] if os.geteuid() == 0 else []
        return [*user, str(self.programs / program), *words]

    def argv(self) -> list[str]:
        settings = ("listen_addresses=", f"cluster_name={self.cluster}", "fsync=off")
        options = [word for setting in settings for word in ("-c", setting)]
        return self._as_user("postgres", "-D", str(self.data), "-k", str(self.home), *options)

    def ready(self) -> bool:
        return self.call(str(self.programs / "pg_isready"), "-q", "-h", str(self.home)).returncode == 0

    def client(self, *words: str) -> list[str]:
        """psql as a command."""
        return [str(self.programs / "psql"), "-X", "-q", "-h", str(self.home), "-U", "postgres", "postgres", *words]

    def cancel_all(self) -> None:
        """Ends every query, and no client."""
        query = "select pg_cancel_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
        self.call(*self.client("-c", query)).check_returncode()

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.home.parent)


class Told(Part):
    """A process that is told lines on its standard input."""

    def spawn(self, *more: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            argv = self.placed(*self.argv(), *more)
            return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log, env=self.environment())

    def say(self, words: str) -> None:
        assert self.process is not None and self.process.stdin is not None, f"{self.name} was not started"
        self.process.stdin.write(words.encode() + b"\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        super().stop()
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()


class Psql(Told):
    """One client, and thereby one backend of the server."""

    def __init__(self, name: str, postgres: Postgres, home: Path) -> None:
        super().__init__(name, home, postgres.debian)
        self.postgres = postgres

    def argv(self) -> list[str]:
        return self.postgres.client()

    def ready(self) -> bool:
        self.say("select 'connected';")
        return "connected" in self.log_text()


TITLED = """
import sys, setproctitle
setproctitle.setproctitle("myworker a [0/4]")
for line in sys.stdin:
    setproctitle.setproctitle(line.strip())
"""


class Titled(Told):
    """A program that writes what it is told into its title."""

    def argv(self) -> list[str]:
        return [sys.executable, "-c", TITLED]

    def ready(self) -> bool:
        return cmdline(self.pid).startswith(b"myworker")
