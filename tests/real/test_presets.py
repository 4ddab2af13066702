"""Real workers other than Sidekiq move the weight, each by its preset; and pools that mix them share a scan."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from .parts import Agent, Postgres, Psql, Redis, Rq, Titled, cmdline

FOLLOW_DEADLINE_S = 15.0
# The reply then shows how many are busy of how many there are.
ALL = '[weight]\ncount = "threads"\ncapacity = "slots"\n[reply]\non_stop = "keep"\n'
PATTERN = r"pattern = '^myworker \S+ \[(?P<busy>\d+)/(?P<total>\d+)\]'" + "\n"
STATES = "pattern = '^myworker: (?P<state>\\w+)'\nbusy_states = ['cooking', 'washing']\n"


def processing(pid: int) -> bool:
    return b": Processing " in cmdline(pid)


def watching(home: Path, preset: str, more: str = "") -> Agent:
    return Agent(home, f'[workers]\npreset = "{preset}"\n{more}{ALL}')


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path) as redis:
        yield redis


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    with Postgres(getattr(request, "param", "")) as postgres:
        yield postgres


@pytest.mark.parametrize(
    ("kind", "horses", "says"),
    [
        ("rq.worker.Worker", 1, b": Forked "),
        ("rq.worker.SpawnWorker", 1, b": Spawned "),
        ("rq.worker.SimpleWorker", 0, b": Processing "),
    ],
)
def test_an_rq_worker_is_one_worker_however_it_does_its_jobs(
    tmp_path: Path, redis: Redis, kind: str, horses: int, says: bytes
) -> None:
    with Rq("jobs", redis, kind) as rq, watching(tmp_path, "rq") as agent:
        agent.wait_answer(b"up 100% #0/1 busy\n", FOLLOW_DEADLINE_S)
        rq.hold()
        rq.until(lambda: says in cmdline(rq.pid), f"saying {says!r}", FOLLOW_DEADLINE_S)
        rq.until(lambda: len(rq.horses()) == horses, f"at work with {horses} horses", FOLLOW_DEADLINE_S)
        for horse in rq.horses():
            rq.until(partial(processing, horse), "processing", FOLLOW_DEADLINE_S)
        agent.wait_answer(b"up 0% #1/1 busy\n", FOLLOW_DEADLINE_S)
        rq.release()
        agent.wait_answer(b"up 100% #0/1 busy\n", FOLLOW_DEADLINE_S)


@pytest.mark.parametrize("postgres", ["", "15/main"], indirect=True)
def test_postgres_backends_count_and_the_servers_own_processes_do_not(tmp_path: Path, postgres: Postgres) -> None:
    users = f'users = ["{postgres.user}"]\n'
    first, second = (Psql(name, postgres, tmp_path) for name in ("first", "second"))
    with watching(tmp_path, "postgres", users) as agent, first, second:
        agent.wait_answer(b"up 100% #0/2 busy\n", FOLLOW_DEADLINE_S)
        first.say("select pg_sleep(600);")
        agent.wait_answer(b"up 50% #1/2 busy\n", FOLLOW_DEADLINE_S)
        second.say("begin; select pg_sleep(600);")
        agent.wait_answer(b"up 0% #2/2 busy\n", FOLLOW_DEADLINE_S)
        postgres.cancel_all()
        # In a transaction, and waiting for its client, is not at work.
        agent.wait_answer(b"up 100% #0/2 busy\n", FOLLOW_DEADLINE_S)


def test_a_custom_program_counts_by_numbers(tmp_path: Path) -> None:
    with Titled("titled", tmp_path) as titled, watching(tmp_path, "custom", f"[workers.custom]\n{PATTERN}") as agent:
        agent.wait_answer(b"up 100% #0/4 busy\n", FOLLOW_DEADLINE_S)
        titled.say("myworker a [3/4]")
        agent.wait_answer(b"up 25% #3/4 busy\n", FOLLOW_DEADLINE_S)
        titled.say("myworker a [5/4]")
        agent.wait_answer(b"up #cannot read titles\n", FOLLOW_DEADLINE_S)


def test_a_custom_program_counts_by_states(tmp_path: Path) -> None:
    with Titled("titled", tmp_path) as titled, watching(tmp_path, "custom", f"[workers.custom]\n{STATES}") as agent:
        titled.say("myworker: waiting")
        agent.wait_answer(b"up 100% #0/1 busy\n", FOLLOW_DEADLINE_S)
        titled.say("myworker: washing up")
        agent.wait_answer(b"up 0% #1/1 busy\n", FOLLOW_DEADLINE_S)


def test_pools_of_several_programs_share_one_scan_and_agent_send_chooses(
    tmp_path: Path, redis: Redis, postgres: Postgres
) -> None:
    slots = 'count = "threads"\ncapacity = "slots"\n'
    pools = (
        f'[pools.queue]\npreset = "rq"\nusers = []\n{slots}'
        f'[pools.db]\npreset = "postgres"\nusers = ["{postgres.user}"]\n{slots}'
        f'[pools.own]\npreset = "custom"\nusers = []\n{PATTERN}{slots}'
        '[workers]\nusers = ["nobody"]\n[weight]\ncapacity = 7\n[reply]\non_stop = "keep"\n'
    )
    said = {b"queue\n": b"up 0% #1/1 busy\n", b"db\n": b"up 50% #1/2 busy\n", b"own\n": b"up 25% #3/4 busy\n"}
    said |= {b"\n": b"up 100% #0/7 busy\n", b"unknown\n": b"up 100% #0/7 busy\n"}
    rq, titled = Rq("queue", redis), Titled("own", tmp_path)
    busy, idle = (Psql(name, postgres, tmp_path) for name in ("busy", "idle"))
    with ExitStack() as stack:
        for part in (rq, titled, busy, idle):
            stack.enter_context(part)
        rq.hold()
        busy.say("select pg_sleep(600);")
        titled.say("myworker a [3/4]")
        with Agent(tmp_path, pools, name="follower") as agent:
            agent.until(lambda: {line: agent.ask(line) for line in said} == said, "seeing all", FOLLOW_DEADLINE_S)
        patient = '[scan]\nfresh_for = "10m"\ngive_up_after = "20m"\n'
        with Agent(tmp_path, patient + pools, name="patient") as agent:
            assert {line: agent.ask(line) for line in said} == said
            assert json.loads(agent.order("status", "--json"))["scanner"]["scans"] == 1
