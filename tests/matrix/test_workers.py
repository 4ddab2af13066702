"""Real workers of each release, read by the wheel of that release's Python: each is asked for by its pid."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.real.parts import Installed, Part, Postgres, Psql, Redis, Rq, Sidekiq, cmdline, title, until

from .trees import Tree

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1200)]

SEEN_DEADLINE_S = 15.0
LONG_TAG = "/srv/www/" + "a-rather-long-name/" * 12 + "current"


class Reading(NamedTuple):
    """What the agent reads in one title."""

    busy: int
    threads: int
    stopping: bool


class Reader:
    """The installed wheel's `check`, asked anew each time."""

    def __init__(self, installed: Installed, home: Path, preset: str = "sidekiq") -> None:
        self.installed = installed
        self.config = home / f"{preset}.toml"
        self.config.write_text(f'[workers]\npreset = "{preset}"\n')

    def workers(self) -> dict[int, dict[str, Any]]:
        """All that it lists, by pid."""
        command: list[str | Path] = [self.installed.program, "check", "--config", self.config, "--json", "--workers"]
        done = self.installed.debian.run(command, check=False)
        assert not done.stderr, done.stderr
        return {worker["pid"]: worker for worker in json.loads(done.stdout)["workers"]}

    def read(self, pid: int) -> Reading | None:
        """What it reads of one that counts; None for any other."""
        worker = self.workers().get(pid)
        if worker is None or worker["copy"] or worker["quarantined"] or not worker["readings"].get("default"):
            return None
        return Reading(*worker["readings"]["default"])

    def wait(self, pid: int, expected: Reading) -> None:
        until(
            lambda: self.read(pid) == expected,
            f"{pid} read as {expected}",
            SEEN_DEADLINE_S,
            lambda: f"{self.workers()}",
        )


@contextmanager
def running(parts: list[Part]) -> Iterator[None]:
    """All of them at once, so that they start and beat side by side."""
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.stop)
            part.start()
        for part in parts:
            part.wait_ready()
        yield


class Sidekiqs:
    """Sidekiqs in every state there is, each held in it."""

    def __init__(self, home: Path, debian: Tree, reader: Reader) -> None:
        self.reader = reader
        self.redis = Redis(home, debian)
        self.plain = Sidekiq("plain", self.redis, threads=2, debian=debian)
        self.by_ruby = Sidekiq("by-ruby", self.redis, threads=3, by_ruby=True, debian=debian)
        self.quiet = Sidekiq("quiet", self.redis, threads=2, debian=debian)
        self.ending = Sidekiq("ending", self.redis, threads=2, debian=debian)
        self.long = Sidekiq("long", self.redis, long_tag=LONG_TAG, debian=debian)
        self.forker = Sidekiq("forker", self.redis, debian=debian)
        self.workers = [self.plain, self.by_ruby, self.quiet, self.ending, self.long, self.forker]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Every one has one job of those it may have, and its title says so; quiet and ending stop."""
        with running([self.redis]), running([*self.workers]):
            for worker in self.workers:
                worker.hold(kind="Forking" if worker is self.forker else "Holding")
            for worker in self.workers:
                worker.wait_taken()
            self.quiet.send(signal.SIGTSTP)
            self.ending.send(signal.SIGTERM)
            for worker in self.workers:
                worker.wait_title(1, stopping=worker in (self.quiet, self.ending))
            yield


@pytest.fixture(scope="module")
def sidekiqs(tree: Tree, installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidekiqs]:
    home = tmp_path_factory.mktemp(f"sidekiqs-{tree.release}")
    sidekiqs = Sidekiqs(home, tree, Reader(installed, home))
    with sidekiqs.at_work():
        yield sidekiqs


@pytest.mark.cell("Sidekiq", "busy")
def test_busy_is_read_whatever_the_process_is_called(sidekiqs: Sidekiqs) -> None:
    assert Path(f"/proc/{sidekiqs.plain.pid}/comm").read_text() == "sidekiq\n"
    assert Path(f"/proc/{sidekiqs.by_ruby.pid}/comm").read_text() == "ruby\n"
    assert sidekiqs.reader.read(sidekiqs.plain.pid) == Reading(1, 2, False)
    assert sidekiqs.reader.read(sidekiqs.by_ruby.pid) == Reading(1, 3, False)


@pytest.mark.cell("Sidekiq", "quiet (TSTP), with a job")
def test_quiet_is_read_as_stopping(sidekiqs: Sidekiqs) -> None:
    assert sidekiqs.reader.read(sidekiqs.quiet.pid) == Reading(1, 2, True)


@pytest.mark.cell("Sidekiq", "stopping (TERM), with a job")
def test_ending_is_read_as_stopping(sidekiqs: Sidekiqs) -> None:
    assert sidekiqs.ending.running, "its patience is over: nothing is shown here"
    assert sidekiqs.reader.read(sidekiqs.ending.pid) == Reading(1, 2, True)


@pytest.mark.cell("Sidekiq", "a tag longer than its command line")
def test_title_that_outgrew_its_argv_is_read(sidekiqs: Sidekiqs) -> None:
    assert cmdline(sidekiqs.long.pid).count(b"\0") == 1, "the title fits in argv: nothing is shown here"
    assert sidekiqs.reader.read(sidekiqs.long.pid) == Reading(1, 1, False)


@pytest.mark.cell("Sidekiq", "a job that forks: the copy does not count")
def test_copy_forked_by_a_job_does_not_count(sidekiqs: Sidekiqs) -> None:
    child = sidekiqs.forker.fork()
    says = title(child)
    assert says is not None and says.busy == 1, "the child has no worker's title: nothing is shown here"
    assert sidekiqs.reader.read(sidekiqs.forker.pid) == Reading(1, 1, False)
    assert sidekiqs.reader.read(child) is None


@pytest.mark.cell("Sidekiq", "idle again")
def test_idle_is_read_when_the_job_has_ended(sidekiqs: Sidekiqs) -> None:
    sidekiqs.plain.make(0)
    sidekiqs.long.make(0)
    sidekiqs.plain.wait_title(0)
    sidekiqs.long.wait_title(0)
    assert sidekiqs.reader.read(sidekiqs.plain.pid) == Reading(0, 2, False)
    assert sidekiqs.reader.read(sidekiqs.long.pid) == Reading(0, 1, False)


@pytest.mark.cell("Sidekiq", "capsules: the threads of all of them")
def test_capsules_count_together(tree: Tree, installed: Installed, tmp_path: Path) -> None:
    if int(tree.versions()["sidekiq"].split(".")[0]) < 7:
        pytest.skip("Sidekiq has capsules from 7.0 on")
    with Redis(tmp_path, tree) as redis, Sidekiq("one", redis, threads=2, capsules=3, debian=tree) as worker:
        assert Reader(installed, tmp_path).read(worker.pid) == Reading(0, 5, False)


@pytest.mark.cell("Other workers", "rq (with setproctitle)")
def test_rq_is_read_busy_and_idle(tree: Tree, installed: Installed, tmp_path: Path) -> None:
    reader = Reader(installed, tmp_path, "rq")
    with Redis(tmp_path, tree) as redis, Rq("jobs", redis, debian=tree) as rq:
        reader.wait(rq.pid, Reading(0, 1, False))
        rq.hold()
        rq.until(lambda: len(rq.horses()) == 1, "at work", SEEN_DEADLINE_S)
        reader.wait(rq.pid, Reading(1, 1, False))
        assert reader.read(rq.horses()[0]) is None  # its child shows the same job
        rq.release()
        reader.wait(rq.pid, Reading(0, 1, False))


@pytest.mark.cell("Other workers", "PostgreSQL")
def test_postgres_backends_are_read_and_the_servers_own_processes_are_not(
    tree: Tree, installed: Installed, tmp_path: Path
) -> None:
    reader = Reader(installed, tmp_path, "postgres")
    with Postgres(debian=tree) as postgres, Psql("client", postgres, tmp_path) as client:

        def readings() -> list[Reading]:
            ours = Path(f"/proc/{postgres.pid}/task/{postgres.pid}/children").read_text().split()
            return [found for found in map(reader.read, map(int, ours)) if found]

        wait_for(lambda: readings() == [Reading(0, 1, False)], reader)
        client.say("select pg_sleep(600);")
        wait_for(lambda: readings() == [Reading(1, 1, False)], reader)
        postgres.cancel_all()
        wait_for(lambda: readings() == [Reading(0, 1, False)], reader)


def wait_for(condition: Callable[[], bool], reader: Reader) -> None:
    until(condition, "read as it is", SEEN_DEADLINE_S, lambda: f"{reader.workers()}")
