"""`make demo`: workers whose titles change, an agent that reads them, and a HAProxy whose weights follow.

    python -m tools.demo [--steps N] [--every SECONDS]

Without HAProxy it polls the agent itself. Everything listens on loopback, on free ports. It must leave nothing
behind, however it ends: no process and no file; and no other agent on this machine may count its workers.
"""

import argparse
import csv
import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

WORKERS = 6
THREADS = 5
DEADLINE_S = 10.0
# Not a name that a preset looks for, so that an agent in earnest does not count them; 15 bytes at most.
NAME = f"demo-{os.getpid()}"

AGENT = f"""\
[workers]
comm = ["{NAME}"]
[scan]
fresh_for = "100ms"
min_gap = "50ms"
max_duty = "100%"
[weight]
capacity = {WORKERS}
[reply]
on_stop = "keep"
[log]
level = "warning"
"""
BALANCER = """\
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
listen stats
    bind 127.0.0.1:{stats}
    stats enable
    stats uri /
    stats refresh 1s
backend web
    balance roundrobin
    server this_host 127.0.0.1:{stats} weight 100 agent-check agent-addr 127.0.0.1 agent-port {agent} agent-inter 200ms
    server a_web_host 127.0.0.1:{stats} weight 100
"""
# What a worker does: its title says as many jobs as the line that it reads, until there are no more lines.
WORKER = f"""\
import setproctitle, sys
for line in sys.stdin:
    setproctitle.setproctitle("sidekiq 7.3.0 demo [%d of {THREADS} busy]" % int(line))
    setproctitle.setthreadtitle("{NAME}")
    print("said", flush=True)
"""


def free_ports(count: int) -> list[int]:
    """As many ports of loopback that nobody has now."""
    with ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def _end_with(parent: int) -> None:
    """Called in a child: should this process be killed, the kernel ends it."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def started(*argv: str | Path, piped: bool = False) -> Iterator["subprocess.Popen[str]"]:
    """A program for the time of a `with` block. Ctrl-C reaches this process alone, which ends it."""
    parent = os.getpid()
    pipe = subprocess.PIPE if piped else None
    with subprocess.Popen(
        argv,
        stdin=pipe or subprocess.DEVNULL,
        stdout=pipe,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: _end_with(parent),  # noqa: PLW1509 - there are no threads here
    ) as program:
        try:
            yield program
        finally:
            program.kill()


class Worker:
    """A process that calls itself a Sidekiq with some jobs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._tell, self._said = process.stdin, process.stdout
        self.jobs(0)

    def jobs(self, count: int) -> None:
        """Its title says so from now on."""
        print(count, file=self._tell, flush=True)
        if not self._said.readline():
            _fail("a worker ended")


def poll(port: int) -> str:
    """What the agent answers; an empty line where it does not yet."""
    try:
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
            return connection.makefile().readline().strip()
    except ConnectionRefusedError:
        return ""


def weights(page: str) -> dict[str, int]:
    """The servers' weights on HAProxy's statistics page; none where it is not up yet."""
    try:
        with urllib.request.urlopen(f"{page};csv", timeout=DEADLINE_S) as answer:  # noqa: S310 - our own URL
            table = csv.DictReader(answer.read().decode().removeprefix("# ").splitlines())
    except urllib.error.URLError:
        return {}
    return {row["svname"]: int(row["weight"]) for row in table if row["pxname"] == "web" and row["svname"] != "BACKEND"}


def wave() -> Iterator[int]:
    """How many workers have jobs: one more at a time until all have, then one fewer, for ever."""
    return itertools.cycle([*range(WORKERS), *range(WORKERS, 0, -1)])


def _fail(text: str) -> NoReturn:
    raise SystemExit(f"demo: {text}")


def _wait_for(what: str, *programs: "subprocess.Popen[str]") -> Iterator[None]:
    """Looks again and again, until the caller has what it wants."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if any(program.poll() is not None for program in programs):
            _fail(f"{what}: it ended; what it said stands above")
        yield
        time.sleep(0.05)
    _fail(f"not within {DEADLINE_S:g} s: {what}")


class Scene:
    """The workers, the agent and the balancer, for the time of a `with` block."""

    def __init__(self, stack: ExitStack) -> None:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="busyweight-demo-")))
        self.port, stats = free_ports(2)
        self.page = f"http://127.0.0.1:{stats}/" if shutil.which("haproxy") else ""
        self.workers = [
            Worker(stack.enter_context(started(sys.executable, "-c", WORKER, piped=True))) for _ in range(WORKERS)
        ]
        config = scratch / "busyweight.toml"
        config.write_text(AGENT)
        places = ["--config", config, "--state", scratch / "state", "--control", scratch / "control.sock"]
        agent = started(Path(sys.prefix, "bin/busyweight"), "serve", "--listen", f"127.0.0.1:{self.port}", *places)
        self._programs = [stack.enter_context(agent)]
        for _ in _wait_for("the agent answers", *self._programs):
            if poll(self.port):
                break
        if self.page:
            config = scratch / "haproxy.cfg"
            config.write_text(BALANCER.format(stats=stats, agent=self.port))
            self._programs.append(stack.enter_context(started("haproxy", "-q", "-db", "-f", config)))

    def reply_to(self, busy: int) -> str:
        """What the agent says once it has seen so many busy workers."""
        for worker, jobs in zip(self.workers, [1] * busy + [0] * (WORKERS - busy), strict=True):
            worker.jobs(jobs)
        for _ in _wait_for(f"the agent counts {busy}", *self._programs):
            said = poll(self.port)
            if f"#{busy}/" in said:
                return said
        raise AssertionError  # _wait_for has failed by then

    def weights_of(self, said: str) -> dict[str, int]:
        """HAProxy's weights once it has heard this reply."""
        heard = int(said.removeprefix("up ").partition("%")[0])
        for _ in _wait_for(f"HAProxy has heard {said!r}", *self._programs):
            found = weights(self.page)
            if found.get("this_host") == heard:
                return found
        raise AssertionError


def show(steps: int | None, every_s: float) -> None:
    """Prints a line for each step: the jobs, the agent's reply, and HAProxy's weights."""
    with ExitStack() as stack:
        scene = Scene(stack)
        print(f"{WORKERS} simulated workers: more and more get jobs, then fewer. Ctrl-C ends the demo and cleans up.")
        print(f"The agent is on 127.0.0.1:{scene.port}. To poll it: bash -c 'cat </dev/tcp/127.0.0.1/{scene.port}'")
        if scene.page:
            print(f"HAProxy's live statistics page: {scene.page}")
        else:
            print("HAProxy is not installed, so only this demo polls (apt-get install haproxy, then try again).")
        print(f"\n{'jobs':<{WORKERS}}  {'agent reply':<18}", "  HAProxy's weights" if scene.page else "", flush=True)
        for busy in itertools.islice(wave(), steps):
            said = scene.reply_to(busy)
            line = f"{'#' * busy:.<{WORKERS}}  {said:<18}"
            if scene.page:
                for name, weight in scene.weights_of(said).items():
                    line += f"   {name} {weight:>3} {'=' * (weight // 5):<20}"
            print(line.rstrip(), flush=True)
            time.sleep(every_s)


def main() -> int:
    """Runs until Ctrl-C, or for the given number of steps."""
    about = argparse.ArgumentParser(prog="python -m tools.demo", description="A live demonstration.")
    about.add_argument("--steps", type=int, help="stop after so many steps (default: run until Ctrl-C)")
    about.add_argument("--every", type=float, default=1.0, help="seconds per step (default: 1)")
    options = about.parse_args()
    # A shell that starts it in the background has it ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        show(options.steps, options.every)
    except OSError as error:
        _fail(f"{error.filename or ''}: {str(error.strerror).lower()}".removeprefix(": "))
    return 0


if __name__ == "__main__":
    sys.exit(main())
