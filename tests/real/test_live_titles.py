"""Live titles: what contrib/sidekiq_live_title.rb does to real Sidekiqs.

Heartbeats do not help: there is one at the start, and then only when a test triggers it.
"""

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.matrix import trees

from .live import EmbeddedSidekiq, LiveSidekiq
from .parts import Agent, Redis

BEAT_S = 10.0
HERE = "here"  # this machine's own Sidekiq
NEWER = [pytest.param(release, marks=pytest.mark.matrix) for release in ("trixie", "sid")]

Live = Callable[..., LiveSidekiq]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Redis(tmp_path) as redis:
        yield redis


@pytest.fixture(params=[HERE, *NEWER])
def tree(request: pytest.FixtureRequest) -> trees.Tree | None:
    """Whose Sidekiq it is; those of other Debians are 7.3 and 8.1."""
    try:
        return None if request.param == HERE else trees.get(request.param)
    except trees.TreeError as failed:
        if request.param in trees.MAY_BREAK:
            pytest.skip(str(failed))
        raise


@pytest.fixture
def live(tree: trees.Tree | None, redis: Redis) -> Live:
    """Makes the Sidekiq of a test."""
    return partial(LiveSidekiq, "live", redis, debian=tree)


@pytest.mark.parametrize("tag", ["shop", "", "two words, [9 of 9 busy] and a bracket"])
def test_a_jobs_start_and_end_stand_in_sidekiqs_own_title(live: Live, tag: str) -> None:
    with live(tag=tag) as worker:
        assert worker.before.split(b" ", 2)[2] == f"{tag} ".encode()
        worker.hold()
        worker.wait_says("[1 of 3 busy]")
        worker.tell("release")
        worker.wait_says("[0 of 3 busy]")


def test_jobs_that_begin_and_end_together_are_all_counted(live: Live) -> None:
    with live(threads=10) as worker:
        worker.hold(10)
        worker.wait_says("[10 of 10 busy]")
        worker.hold(5)
        worker.tell("release", 8)
        worker.wait_says("[7 of 10 busy]")
        worker.tell("release", 7)
        worker.wait_says("[0 of 10 busy]")


def test_hundreds_of_short_jobs_and_as_many_heartbeats_leave_the_right_count(live: Live) -> None:
    with live(threads=10, SHOW_BEATS="1") as worker:
        worker.tell("beat", 300)
        worker.hold(1)
        worker.hold(400, "Quick")
        for _ in range(400):
            assert worker.said() == "done"
        worker.until(lambda: worker.shows(b" beat 301: "), "done with its beats", BEAT_S)
        at_work = worker.whole_title().rpartition(b" ")[2].decode()
        worker.wait_says(f"[1 of 10 busy] beat 301: {at_work}")
        worker.tell("release")
        worker.wait_says(f"[0 of 10 busy] beat 301: {at_work}")


def test_a_timeout_may_strike_anywhere_and_the_count_is_right(live: Live) -> None:
    with live(STRIKES="1") as worker:
        worker.hold(200, "Quick")
        worker.wait_taken(60.0)
        for where in ("ended", "begins", "call"):
            assert f"struck while {where}" in worker.log_text()
        assert "no live titles" not in worker.log_text()
        worker.wait_says("[0 of 3 busy]")


def test_a_job_that_raises_has_ended(live: Live) -> None:
    with live() as worker:
        worker.hold(kind="Raising")
        worker.wait_says("[1 of 3 busy]")
        worker.tell("release")
        worker.wait_says("[0 of 3 busy]")


def test_a_heartbeat_that_still_counts_an_ended_job_is_put_right_at_once(live: Live) -> None:
    with live(LINGER="1", SHOW_BEATS="1") as worker:
        worker.hold()
        worker.wait_says("[1 of 3 busy] beat 1: 0")
        worker.tell("release")
        worker.wait_says("[0 of 3 busy] beat 1: 0")
        worker.tell("beat")
        # For Sidekiq itself the job is at work yet.
        worker.wait_says("[0 of 3 busy] beat 2: 1")
        worker.tell("linger")
        worker.hold()
        worker.wait_says("[1 of 3 busy] beat 2: 1")


def test_quiet_is_said_at_once_and_jobs_then_end_as_before(live: Live) -> None:
    with live(SHOW_BEATS="1") as worker:
        worker.hold(2)
        worker.wait_says("[2 of 3 busy] beat 1: 0")
        worker.send(signal.SIGTSTP)
        worker.wait_says("[2 of 3 busy] stopping beat 1: 0")
        worker.tell("release")
        worker.wait_says("[1 of 3 busy] stopping beat 1: 0")
        worker.tell("beat")
        worker.until(lambda: worker.shows(b" beat 2: "), "done with its beat", BEAT_S)
        assert b" busy] stopping beat 2" in worker.whole_title()


def test_a_job_that_is_killed_at_shutdown_has_ended(live: Live) -> None:
    with live(timeout_s=1, STAY="1") as worker:
        worker.hold()
        worker.wait_says("[1 of 3 busy]")
        worker.send(signal.SIGTERM)
        worker.wait_says("[1 of 3 busy] stopping")
        worker.wait_says("[0 of 3 busy] stopping")
        worker.tell("exit")
        assert worker.wait_exit(20.0) == 0


def test_a_job_within_a_job_keeps_its_thread_busy_once(live: Live) -> None:
    with live() as worker:
        worker.hold(kind="Nesting")
        assert worker.said().endswith("[1 of 3 busy]")
        assert worker.said().endswith("[1 of 3 busy]")
        worker.tell("release")
        worker.wait_says("[0 of 3 busy]")


def test_a_forked_child_keeps_the_title_that_it_was_born_with_and_may_take_another(live: Live) -> None:
    with live() as worker:
        worker.hold(kind="Forking")
        assert worker.said().endswith("[1 of 3 busy]")
        assert worker.said().endswith("[1 of 3 busy]")
        assert worker.said() == "a child's own title"
        worker.wait_says("[1 of 3 busy]")
        worker.tell("release")
        worker.wait_says("[0 of 3 busy]")


def test_jobs_run_where_no_title_can_be_written_and_the_heartbeat_still_counts(live: Live) -> None:
    with live(NO_TITLES="1", SHOW_BEATS="1") as worker:
        worker.hold()
        worker.hold(2, "Quick")
        assert [worker.said(), worker.said()] == ["done", "done"]
        worker.tell("beat")
        worker.wait_says("[1 of 3 busy] beat 2: 1")
        assert worker.log_text().count("busyweight: no live titles: NotImplementedError: no titles here") == 1
        worker.tell("release")
        assert worker.said() == "done"


@pytest.mark.parametrize("tree", NEWER, indirect=True)
def test_all_capsules_are_counted_in_one_title(live: Live) -> None:
    with live(CAPSULE="1") as worker:
        worker.hold()
        worker.wait_says("[1 of 4 busy]")
        worker.hold(queue="live-single")
        worker.wait_says("[2 of 4 busy]")
        worker.tell("release", 2)
        worker.wait_says("[0 of 4 busy]")


@pytest.mark.parametrize("tree", NEWER, indirect=True)
def test_sidekiq_inside_another_program_appends_its_jobs_to_that_programs_title(tree: trees.Tree, redis: Redis) -> None:
    with EmbeddedSidekiq("live", redis, debian=tree) as worker:
        worker.hold(2)
        worker.wait_says("[2 of 3 busy]")
        worker.tell("beat")
        worker.tell("release", 2)
        worker.wait_says("[0 of 3 busy]")


def test_the_agent_sees_a_waiting_job_begin_and_end_between_two_heartbeats(
    alone: None, tmp_path: Path, live: Live
) -> None:
    config = '[weight]\ncount = "threads"\ncapacity = "slots"\n'
    with live(threads=4) as worker, Agent(tmp_path, config) as agent:
        agent.wait_answer(b"up 100% #0/4 busy\n")
        for _ in range(3):
            worker.hold(3)
            agent.wait_answer(b"up 25% #3/4 busy\n")
            worker.tell("release", 3)
            agent.wait_answer(b"up 100% #0/4 busy\n")
