"""The turns of the polls bench: which contestant answers, what polls it, and when.

Every contestant is a separate process on one CPU; pollers run on another. All are started at the beginning and keep
running; one that is not polled costs nothing. They are polled in turns, by poller.c and by a real HAProxy, and a round
ends before the next begins. The cost of sweeping a host of 10,000 processes is measured last and separately, when those
processes are old: young ones are re-checked every second. This module must never judge what it measures.
"""

import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.farm import Farm, room_for, sidekiq_title

from benches.harness import Spread, UnavailableError, compile_c

HERE = Path(__file__).parent
C, UVLOOP, ASYNCIO = "c", "uvloop", "asyncio"
OURS, SWEEPING, HUNG, EBPF = "busyweight", "busyweight-sweeping", "busyweight-hung", "busyweight-ebpf"
CONTESTANTS = (C, "c-recv", "c-segment", OURS, HUNG, UVLOOP, ASYNCIO)
BALANCED = (C, "c-segment", OURS, UVLOOP, ASYNCIO)  # by a real HAProxy
SWEPT = (OURS, SWEEPING, EBPF)
HANGING = 17  # one more than the limit of detached readers: from then on no scan ends

PROCESSES = 10_000
WORKERS = 100
CHURN_PER_S = 20  # processes that come and go while a host is swept: otherwise a sweep skips the listing
AGE_S = 125  # after two minutes no process is young any more
PRIME_S = 5  # for the one scan that re-checks all of them, and the pause that its cost requires
SERVERS = 1_000
AGENT_INTER_MS = 20
SETTLE_S = 1.5  # HAProxy spreads the first checks over their interval
WARM_UP_S = 0.3
READY_DEADLINE_S = 30

CLONE_NEWNET = 0x40000000

COMPARED = ("cpu_us_per_reply", "replies_per_s", "p99_us")

Sample = dict[str, float]
Samples = dict[str, list[Sample]]


def network_of_its_own() -> bool:
    """Moves this process into its own network namespace, so that no other polls count; False if not permitted."""
    if ctypes.CDLL(None).unshare(CLONE_NEWNET):
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return True


@dataclass(frozen=True)
class Contestant:
    """A running process that answers polls on a port of 127.0.0.1."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def cpu_ns(self, thread: str = "") -> int:
        """The CPU time of its threads so far; `thread`: only those with that name."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if not thread or (task / "comm").read_text().strip() == thread:
                    total += int((task / "schedstat").read_text().split()[0])
        return total

    def rss_mb(self) -> float:
        """Resident memory, in millions of bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Bench:
    """One run, in its own directory; a context manager that ends what it started."""

    def __init__(self, directory: Path, cpu: int) -> None:
        self._directory = directory
        self._cpu = cpu
        self._stack = contextlib.ExitStack()
        self._answer = str(compile_c("answer", [HERE / "answer.c"]))
        self._poller = str(compile_c("poller", [HERE / "poller.c"]))
        self.contestants: dict[str, Contestant] = {}
        self._farm: Farm | None = None
        self._founded_s = 0.0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(room_for(PROCESSES))
            self._farm = stack.enter_context(Farm())
            self._farm.spawn(WORKERS, comm="ruby", title=sidekiq_title(3))
            self._farm.spawn(PROCESSES - WORKERS, comm="nginx", title=b"nginx: worker process")
            self._founded_s = time.monotonic()
            for name in (*CONTESTANTS, SWEEPING, EBPF):
                self.contestants[name] = stack.enter_context(self._started(name))
            for contestant in self.contestants.values():
                _wait_ready(contestant)
            if _discovery(self._directory / "ours-ebpf") != "ebpf":
                del self.contestants[EBPF]
            _hang(self._directory / f"ours-{HUNG.partition('-')[2]}" / "proc")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def polled(self, name: str, at_once: int, seconds: float) -> Sample:
        """One turn of poller.c."""
        contestant = self.contestants[name]
        words = [self._poller, str(contestant.port), str(at_once)]
        with self._life(name):
            # The first poll after a silence may wait for a scan; this is about the many that follow.
            subprocess.run([*words, str(WARM_UP_S)], check=True, capture_output=True)
            scanner_ns, cpu_ns, began = contestant.cpu_ns("reader"), contestant.cpu_ns(), time.monotonic()
            turn = subprocess.run([*words, str(seconds)], check=True, capture_output=True)
            polls: dict[str, float] = json.loads(turn.stdout)
            took_s = time.monotonic() - began
            cpu_ns = contestant.cpu_ns() - cpu_ns
            scanner_ns = contestant.cpu_ns("reader") - scanner_ns
        return {
            "cpu_us_per_reply": cpu_ns / 1e3 / polls["replies"],
            "replies_per_s": polls["replies"] / polls["seconds"],
            **{key: polls[key] for key in ("p50_us", "p99_us", "max_us", "errors")},
            "scanner_share_of_a_cpu": scanner_ns / 1e9 / took_s,
            "rss_mb": contestant.rss_mb(),
        }

    def balanced(self, name: str, seconds: float) -> Sample:
        """One turn of a real HAProxy with its thousand agent-checked servers."""
        haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        if haproxy is None:
            raise UnavailableError("haproxy is not installed: apt install haproxy")
        contestant = self.contestants[name]
        control = self._directory / "haproxy.sock"
        config = self._directory / "haproxy.cfg"
        config.write_text(_haproxy_config(contestant.port, control))
        with self._life(name), _running([haproxy, "-db", "-f", str(config)]):
            time.sleep(SETTLE_S)
            polls, cpu_ns, began = _accepted(), contestant.cpu_ns(), time.monotonic()
            time.sleep(seconds)
            polls, cpu_ns = _accepted() - polls, contestant.cpu_ns() - cpu_ns
            took_s = time.monotonic() - began
            failing = _failing_checks(control)
        return {
            "cpu_us_per_reply": cpu_ns / 1e3 / polls,
            "replies_per_s": polls / took_s,
            "failing_checks": failing,
        }

    def grow_old(self) -> None:
        """Waits until the swept host is in its steady state."""
        time.sleep(max(0.0, self._founded_s + AGE_S - time.monotonic()))
        until = time.monotonic() + PRIME_S
        while time.monotonic() < until:
            _wait_ready(self.contestants[SWEEPING])
            time.sleep(0.25)

    @contextlib.contextmanager
    def _life(self, name: str) -> Iterator[None]:
        """Processes come and go while that contestant sweeps the host."""
        if name not in (SWEEPING, EBPF) or self._farm is None:
            yield
            return
        churn = self._farm.churn(CHURN_PER_S, 60)
        yield
        self._farm.kill([churn])

    @contextlib.contextmanager
    def _started(self, name: str) -> Iterator[Contestant]:
        port = _free_port()
        kind, _, way = name.partition("-")
        if kind == C:
            words = [self._answer, str(port), *([way] if way else [])]
        elif kind == OURS:
            words = self._our_words(port, way)
        else:
            words = [sys.executable, str(HERE / "answerers.py"), kind, str(port)]
        with _running(words, self._cpu) as process:
            yield Contestant(name, port, process)

    def _our_words(self, port: int, way: str) -> list[str]:
        home = self._directory / f"ours-{way}"
        home.mkdir()
        real = way in ("sweeping", "ebpf")
        procfs = "/proc" if real else str(_fixture(home / "proc"))
        config = home / "busyweight.toml"
        config.write_text(
            f'listen = ["127.0.0.1:{port}"]\n[weight]\ncapacity = 24\n'
            f'[scan]\nprocfs = "{procfs}"\ndiscovery = "{"ebpf" if way == "ebpf" else "sweep"}"\n'
            # The one whose scan will hang continues with its previous sample.
            f'give_up_after = "1h"\n[reply]\non_stop = "keep"\n'
        )
        places = ["--control", str(home / "control.sock"), "--state", str(home / "state")]
        return [str(Path(sys.executable).with_name("busyweight")), "serve", "--config", str(config), *places]


@contextlib.contextmanager
def _running(words: list[str], cpu: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Runs it on that CPU (else on the bench's), and ends it."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})  # before it starts any thread
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()


def _fixture(root: Path) -> Path:
    """A procfs with six busy workers."""
    processes = {1: ("systemd", b"/sbin/init\0")}
    processes |= {100 + n: ("ruby", sidekiq_title(1 if n < 6 else 0) + b"\0") for n in range(12)}
    for pid, (comm, title) in processes.items():
        (root / str(pid)).mkdir(parents=True)
        (root / str(pid) / "comm").write_text(f"{comm}\n")
        (root / str(pid) / "cmdline").write_bytes(title)
        (root / str(pid) / "stat").write_text(f"{pid} ({comm}) S 1 {pid} {pid} 0 -1 0 " + "0 " * 12 + f"{pid} 0 0\n")
    return root


def _discovery(home: Path) -> str:
    """How that agent finds workers: eBPF may not be available here."""
    busyweight = Path(sys.executable).with_name("busyweight")
    words = [busyweight, "status", "--json", "--control", home / "control.sock"]
    told = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    found_by: str = told["sample"]["discovery"]
    return found_by


def _hang(root: Path) -> None:
    """Adds candidates whose cmdlines never come."""
    for pid in range(900, 900 + HANGING):
        (root / str(pid)).mkdir()
        os.mkfifo(root / str(pid) / "cmdline")
        (root / str(pid) / "comm").write_text("ruby\n")


def _haproxy_config(port: int, control: Path) -> str:
    return f"""global
    nbthread 1
    stats socket {control} level admin
defaults
    mode tcp
    timeout connect 1s
    timeout client 1s
    timeout server 1s
backend web
    default-server weight 100 agent-check agent-inter {AGENT_INTER_MS}ms agent-addr 127.0.0.1 agent-port {port}
    server-template web 1-{SERVERS} 127.0.0.1:9
"""


def _failing_checks(control: Path) -> int:
    """The number of HAProxy's servers whose last check failed."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(control))
        connection.sendall(b"show stat\n")
        rows = connection.makefile().read().strip().splitlines()
    column = rows[0].removeprefix("# ").split(",").index("agent_status")
    seen = [row.split(",")[column] for row in rows[1:] if ",web" in row]
    # A check in progress has a star, and the previous one's result.
    return sum(bool(status) and not status.removeprefix("* ").startswith("L7OK") for status in seen)


def _accepted() -> int:
    """Connections accepted in this network namespace so far."""
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Tcp:")
    )
    return int(values[names.index("PassiveOpens")])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(contestant: Contestant) -> None:
    deadline = time.monotonic() + READY_DEADLINE_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", contestant.port), timeout=1) as poll:
                if poll.recv(256):
                    return
        except OSError:
            time.sleep(0.05)
        if time.monotonic() > deadline or contestant.process.poll() is not None:
            raise UnavailableError(f"{contestant.name} does not answer")


def in_turns(names: Sequence[str], rounds: int, turn: Callable[[str], Sample]) -> Samples:
    """Every contestant once per round; each round begins with a different one."""
    samples: Samples = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in (*names[start:], *names[:start]):
            samples[name].append(turn(name))
    return samples


def spreads(samples: Samples) -> dict[str, dict[str, Spread]]:
    """For every contestant, the spread of each number and of its ratio to the first contestant's in the same round."""
    first = next(iter(samples))
    return {
        name: {key: Spread.of([turn[key] for turn in turns]) for key in turns[0]}
        | {f"{key}_to_{first}": Spread.of(ratios(samples, key, name, first)) for key in COMPARED if key in turns[0]}
        for name, turns in samples.items()
    }


def ratios(samples: Samples, key: str, over: str, under: str) -> list[float]:
    """One contestant's number to another's, round by round."""
    return [a[key] / b[key] for a, b in zip(samples[over], samples[under], strict=True)]
