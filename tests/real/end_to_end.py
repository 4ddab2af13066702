"""Real Sidekiqs move a real HAProxy's weights, and the original script agrees wherever it is right.

Two agents with different settings watch the same machine for two servers of one backend; the
script is asked by a third server in a backend of its own. Every step says how many processes and
threads are busy; the workers' own titles must say the same before anybody is asked.
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest

from . import original
from .parts import (
    DEFAULTS,
    Agent,
    HAProxy,
    Redis,
    Script,
    Sidekiq,
    Title,
    cmdline,
    free_port,
    get,
    sidekiqs_here,
    title,
    until,
)

PROCESSES = 3  # the base workers, so that all of them busy is a full host
THREADS = 8  # the threads of the base workers; eighths also show how halves are rounded
FOLLOW_DEADLINE_S = 3.0


class Stage:
    """The machine of these tests: workers, agents, the script, and the HAProxy that asks them."""

    def __init__(self, home: Path) -> None:
        self.redis = Redis(home)
        self.plain = Sidekiq("plain", self.redis, threads=6)
        self.other = Sidekiq("other", self.redis, by_ruby=True)
        self.forker = Sidekiq("forker", self.redis)
        self.workers = [self.plain, self.other, self.forker]
        self.processes = Agent(home, f'[weight]\ncapacity = {PROCESSES}\n[reply]\nhealth = "none"\n', name="processes")
        self.threads = Agent(home, f'[weight]\ncount = "threads"\ncapacity = {THREADS}\n', name="threads")
        self.agents = [self.processes, self.threads]
        self.script = Script(home, PROCESSES)
        self.web, self.public, self.bare = free_port(), free_port(), free_port()
        self.haproxy = HAProxy(home, self.configuration())

    def configuration(self) -> str:
        """HAProxy itself plays the web servers behind it."""
        return f"""{DEFAULTS}
frontend web_server
    bind 127.0.0.1:{self.web}
    http-request return status 200 content-type text/plain string served

frontend public
    bind 127.0.0.1:{self.public}
    use_backend web_all_busy if {{ nbsrv(web) eq 0 }}
    default_backend web

frontend without_fallback
    bind 127.0.0.1:{self.bare}
    default_backend web

backend web
    balance roundrobin
    http-response set-header x-backend web
    default-server check inter 500ms weight 100 agent-check agent-inter 200ms
    server processes 127.0.0.1:{self.web} agent-port {self.processes.port}
    server threads 127.0.0.1:{self.web} agent-port {self.threads.port}

backend web_all_busy
    balance roundrobin
    http-response set-header x-backend web_all_busy
    server processes 127.0.0.1:{self.web} weight 100 track web/processes
    server threads 127.0.0.1:{self.web} weight 100 track web/threads

backend script
    server script 127.0.0.1:{self.web} weight 100 agent-check agent-inter 500ms agent-port {self.script.port}
"""

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Everything runs; on leaving everything is ended, and no agent may have left a traceback."""
        with ExitStack() as stack:
            stack.enter_context(self.redis)
            parts = [*self.workers, *self.agents, self.script, self.haproxy]
            for part in parts:
                stack.callback(part.stop)
                part.start()
            for part in parts:
                part.wait_ready()
            yield
        for agent in self.agents:
            assert "Traceback" not in agent.log_text(), agent.evidence()

    @contextmanager
    def guest(self, worker: Sidekiq) -> Iterator[Sidekiq]:
        """One more worker for one test."""
        self.workers.append(worker)
        try:
            with worker:
                yield worker
        finally:
            self.workers.remove(worker)

    def arrange(self, plain: int = 0, other: int = 0, forker: int = 0) -> None:
        """Bring the base workers to so many busy threads each, and wait until their titles say so."""
        wanted = {self.plain: plain, self.other: other, self.forker: forker}
        for worker, busy in wanted.items():
            worker.make(busy)
        for worker, busy in wanted.items():
            worker.wait_title(busy)

    def agree(self, processes: int, threads: int, *, script_mistakes: frozenset[int] = frozenset()) -> None:
        """So many processes, with so many threads, have a job: titles, answers and weights all say so.

        `script_mistakes` are the pids, idle or no workers at all, that the script takes for busy.
        """
        titles = {worker.pid: title(worker.pid) for worker in self.workers}
        busy = {pid for pid, says in titles.items() if says is not None and says.busy}
        assert (len(busy), sum(says.busy for says in titles.values() if says)) == (processes, threads), titles

        weight = original.weight_percent(threads, THREADS)
        self.wait_weight("web", "processes", original.weight_percent(processes, PROCESSES))
        self.wait_weight("web", "threads", weight)
        reason = f"({threads}/{THREADS} busy)"
        self.haproxy.wait_server(
            "web", "threads", f"showing {reason}", lambda row: reason in row["last_agt"], FOLLOW_DEADLINE_S
        )
        self.processes.wait_answer(original.answer(processes, PROCESSES), FOLLOW_DEADLINE_S)
        self.threads.wait_answer(f"up {weight}% #{threads}/{THREADS} busy\n".encode(), FOLLOW_DEADLINE_S)

        assert not script_mistakes & busy
        counted = original.busy_pids()
        assert counted == busy | script_mistakes, sidekiqs_here()
        self.wait_weight("script", "script", original.weight_percent(len(counted), PROCESSES))
        if not script_mistakes:
            assert self.script.ask() == self.processes.ask()

    def wait_weight(self, backend: str, server: str, expected: int) -> None:
        self.haproxy.wait_weight(backend, server, expected, FOLLOW_DEADLINE_S)


def answered(port: int) -> tuple[int, str]:
    """What a client gets: the status and the backend that served it."""
    response = get(port)
    return response.status, response.headers.get("x-backend", "")


@pytest.fixture(scope="module")
def stage(alone: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("stage"))
    with stage.playing():
        yield stage


@pytest.mark.parametrize(
    ("busy", "by_processes", "by_threads"),
    [((1, 0, 0), 67, 88), ((2, 1, 0), 33, 62), ((4, 1, 1), 0, 25), ((0, 0, 0), 100, 100)],
)
def test_haproxys_weights_equal_the_formula_for_the_jobs_running(
    stage: Stage, busy: tuple[int, int, int], by_processes: int, by_threads: int
) -> None:
    stage.arrange(*busy)
    stage.agree(processes=3 - busy.count(0), threads=sum(busy))
    assert stage.haproxy.weight("web", "processes") == by_processes
    assert stage.haproxy.weight("web", "threads") == by_threads


def test_the_second_backend_saves_a_full_fleet(
    stage: Stage,
) -> None:
    """With all hosts full, clients get 200 through it, and would get 503 without it."""
    stage.arrange(plain=6, other=1, forker=1)
    stage.agree(processes=3, threads=8)
    assert answered(stage.public) == (HTTPStatus.OK, "web_all_busy")
    assert answered(stage.bare) == (HTTPStatus.SERVICE_UNAVAILABLE, "")

    stage.arrange(plain=5, other=1, forker=1)
    stage.agree(processes=3, threads=7)
    assert answered(stage.public) == (HTTPStatus.OK, "web")


def test_a_title_longer_than_its_argv(stage: Stage) -> None:
    """The agent counts such an idle worker as idle, the original script as busy."""
    tag = "/srv/www/" + "a-rather-long-name/" * 12 + "current"
    with stage.guest(Sidekiq("long", stage.redis, long_tag=tag)) as worker:
        assert cmdline(worker.pid).count(b"\0") == 1, "the title fits in argv: nothing is shown here"
        worker.hold()
        stage.arrange()
        worker.wait_title(1)
        stage.agree(processes=1, threads=1)  # the script says busy of this one always, and now it is

        worker.release()
        worker.wait_title(0)
        stage.agree(processes=0, threads=0, script_mistakes=frozenset({worker.pid}))


def test_a_copy_forked_by_a_job_is_no_worker_though_the_script_counts_it(stage: Stage) -> None:
    stage.arrange()
    stage.forker.hold(kind="Forking")
    stage.forker.wait_title(1)
    stage.agree(processes=1, threads=1)

    child = stage.forker.fork()
    assert title(child) == Title(1, 1, False)
    stage.other.make(1)  # a change that only a look made after the fork can see
    stage.other.wait_title(1)
    stage.agree(processes=2, threads=2, script_mistakes=frozenset({child}))

    stage.arrange()
    assert not cmdline(child)
    stage.agree(processes=0, threads=0)


def test_a_quieted_worker_is_busy_until_its_job_has_ended(stage: Stage) -> None:
    with stage.guest(Sidekiq("quiet", stage.redis, threads=2)) as worker:
        worker.hold()
        worker.wait_taken()
        worker.send(signal.SIGTSTP)
        stage.arrange()
        worker.wait_title(1, stopping=True)
        stage.agree(processes=1, threads=1)

        worker.release()
        worker.wait_title(0, stopping=True)
        stage.agree(processes=0, threads=0)


def test_a_worker_killed_with_kill_9_is_not_counted_even_before_it_is_reaped(stage: Stage) -> None:
    with stage.guest(Sidekiq("doomed", stage.redis)) as worker:
        worker.hold()
        stage.arrange()
        worker.wait_title(1)
        stage.agree(processes=1, threads=1)

        worker.send(signal.SIGKILL)
        until(lambda: not cmdline(worker.pid), "the killed worker is a zombie", FOLLOW_DEADLINE_S)
        stage.agree(processes=0, threads=0)
