"""Live titles: what contrib/active_job_live_title.rb appends to the titles of real programs that run Active Job."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .live import ActiveJobs, Puma
from .parts import Agent, cmdline, until

FOLLOW_DEADLINE_S = 15.0
CONFIG = (
    '[workers]\npreset = "busyweight"\n[weight]\ncount = "threads"\ncapacity = "slots"\n[reply]\non_stop = "keep"\n'
)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[ActiveJobs]:
    with ActiveJobs("jobs", tmp_path) as jobs:
        yield jobs


def test_a_job_is_appended_to_the_title_while_it_is_performed(jobs: ActiveJobs) -> None:
    before = cmdline(jobs.pid).rstrip(b"\0").replace(b"\0", b" ").decode()
    jobs.say("threads 5")
    jobs.say("perform Holding")
    jobs.wait_title(f"{before} | busyweight [1 of 5 busy]")
    jobs.say("release")
    jobs.wait_title(f"{before} | busyweight [0 of 5 busy]")
    jobs.say("program")
    jobs.wait_said(f"program: {jobs.argv()[1]}")


def test_jobs_that_begin_and_end_together_are_all_counted(jobs: ActiveJobs) -> None:
    jobs.say("title app")
    jobs.say("ask-threads 4")
    for _ in range(4):
        jobs.say("perform Holding")
    jobs.wait_title("app | busyweight [4 of 4 busy]")
    jobs.say("perform Raising")
    jobs.wait_title("app | busyweight [5 of 5 busy]")
    for _ in range(5):
        jobs.say("release")
    jobs.wait_title("app | busyweight [0 of 5 busy]")


def test_without_a_number_of_threads_it_is_the_most_there_were(jobs: ActiveJobs) -> None:
    jobs.say("title app")
    for busy in (1, 2):
        jobs.say("perform Holding")
        jobs.wait_title(f"app | busyweight [{busy} of {busy} busy]")
    for busy in (1, 0):
        jobs.say("release")
        jobs.wait_title(f"app | busyweight [{busy} of 2 busy]")


def test_a_job_that_raises_has_ended(jobs: ActiveJobs) -> None:
    jobs.say("title app")
    jobs.say("perform Raising")
    jobs.wait_title("app | busyweight [1 of 1 busy]")
    jobs.say("release")
    jobs.wait_title("app | busyweight [0 of 1 busy]")


def test_a_title_that_the_program_takes_meanwhile_is_appended_to(jobs: ActiveJobs) -> None:
    jobs.say("title app")
    jobs.say("perform Holding")
    jobs.wait_title("app | busyweight [1 of 1 busy]")
    jobs.say("title waiting for jobs | busyweight [7 of 9 busy], and so on")
    jobs.wait_title("waiting for jobs, and so on | busyweight [1 of 1 busy]")
    jobs.say("setproctitle past Ruby's own")
    jobs.wait_title("past Ruby's own")
    jobs.say("release")
    jobs.wait_title("past Ruby's own | busyweight [0 of 1 busy]")


def test_a_job_within_a_job_keeps_its_thread_busy_once(jobs: ActiveJobs) -> None:
    jobs.say("title app")
    jobs.say("perform Nesting")
    jobs.wait_said("quick: app | busyweight [1 of 1 busy]")
    jobs.wait_title("app | busyweight [1 of 1 busy]")
    jobs.say("release")
    jobs.wait_title("app | busyweight [0 of 1 busy]")


def test_a_jobs_child_keeps_the_title_that_it_was_born_with_and_may_take_another(jobs: ActiveJobs) -> None:
    jobs.say("title app")
    jobs.say("perform Forking")
    jobs.wait_said("quick: app | busyweight [1 of 1 busy]")
    jobs.wait_said("child: a child's own title")
    jobs.say("release")
    jobs.wait_title("app | busyweight [0 of 1 busy]")


def test_a_child_that_leaves_the_job_it_was_forked_in_writes_nothing(jobs: ActiveJobs) -> None:
    jobs.say("title app")
    jobs.say("fork-within")
    jobs.wait_said("after: app | busyweight [1 of 1 busy]")
    jobs.wait_title("app | busyweight [0 of 1 busy]")


def test_a_process_that_no_job_forked_counts_its_own_jobs(jobs: ActiveJobs) -> None:
    jobs.say("title app")
    for _ in range(2):
        jobs.say("perform Holding")
    jobs.wait_title("app | busyweight [2 of 2 busy]")
    jobs.say("fork")
    jobs.wait_said("quick: worker | busyweight [1 of 1 busy]")
    jobs.wait_said("worker: worker | busyweight [0 of 1 busy]")
    jobs.say("release")
    jobs.wait_title("app | busyweight [1 of 2 busy]")


def test_a_sidekiq_that_counts_by_itself_is_left_alone(jobs: ActiveJobs) -> None:
    jobs.say("title sidekiq 6.4.1 shop [0 of 5 busy]")
    jobs.say("perform Quick")
    jobs.wait_said("quick: sidekiq 6.4.1 shop [0 of 5 busy]")


def test_jobs_run_where_no_title_can_be_written(jobs: ActiveJobs) -> None:
    jobs.say("no-titles")
    jobs.say("title app")
    for _ in range(2):
        jobs.say("perform Quick")
    jobs.until(lambda: jobs.log_text().count("said: quick: app\n") == 2, "done with its jobs", 10.0)
    assert jobs.log_text().count("busyweight: no live titles: NotImplementedError: no titles here") == 1


def test_a_title_without_room_is_said_once(tmp_path: Path) -> None:
    with ActiveJobs("jobs", tmp_path, room=0) as jobs:
        jobs.say(f"title {'a' * 1000}")
        for _ in range(2):
            jobs.say("perform Quick")
        jobs.until(lambda: jobs.log_text().count("said: quick") == 2, "done with its jobs", 10.0)
        assert jobs.log_text().count("busyweight cannot read it") == 1


def test_the_agent_sees_jobs_begin_and_end(tmp_path: Path, jobs: ActiveJobs) -> None:
    jobs.say("threads 4")
    jobs.say("perform Holding")
    with Agent(tmp_path, CONFIG) as agent:
        agent.wait_answer(b"up 75% #1/4 busy\n")
        jobs.say("perform Holding")
        agent.wait_answer(b"up 50% #2/4 busy\n")
        for _ in range(2):
            jobs.say("release")
        agent.wait_answer(b"up 100% #0/4 busy\n")


def test_puma_performs_jobs_in_its_worker_and_the_agent_counts_it_once(tmp_path: Path) -> None:
    with Puma("shop", tmp_path) as puma, Agent(tmp_path, CONFIG) as agent:
        [worker] = puma.workers()
        for pid, words in ((puma.pid, b"puma "), (worker, b"puma: cluster worker 0: ")):
            title = cmdline(pid).split(b"\0")[0]
            assert title.startswith(words), title
            assert title.endswith(b" [shop]"), title
        puma.obey("threads", "4")
        puma.obey("perform", "Holding")
        agent.wait_answer(b"up 75% #1/4 busy\n", FOLLOW_DEADLINE_S)
        expected = b"puma: cluster worker 0: %d [shop] | busyweight [1 of 4 busy]" % puma.pid
        until(lambda: cmdline(worker).split(b"\0")[0] == expected, f"{expected!r}", 10.0, lambda: str(cmdline(worker)))
        assert b"busyweight [" not in cmdline(puma.pid)
        puma.obey("release")
        agent.wait_answer(b"up 100% #0/4 busy\n", FOLLOW_DEADLINE_S)
