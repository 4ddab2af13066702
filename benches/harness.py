"""What all benches share: the machine's description, spreads, contestants in their own processes, results.

A bench compares contestants in turns, in one run: only ratios can be compared across machines. This module must never
decide what is good; targets belong to the bench that knows what they mean.
"""

import ctypes
import datetime
import functools
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import psutil
from tests.farm import CompileError, compile_c

__all__ = [
    "RESULTS",
    "CompileError",
    "Contestant",
    "Spread",
    "Target",
    "UnavailableError",
    "compile_c",
    "leave_a_cpu_alone",
    "machine",
    "write_result",
]

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Spread:
    """A sample's median, quartiles and extremes, in the sample's own unit; `n` is its size."""

    median: float
    q1: float
    q3: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, sample: Sequence[float]) -> Self:
        """Of a sample of at least one number."""
        quartiles = statistics.quantiles(sample, n=4, method="inclusive") if len(sample) > 1 else [sample[0]] * 3
        q1, median, q3 = (round(q, 6) for q in quartiles)
        return cls(median=median, q1=q1, q3=q3, low=min(sample), high=max(sample), n=len(sample))


@dataclass(frozen=True)
class Target:
    """A target for a ratio or a count, and the measured value; None: it could not be measured here."""

    name: str
    value: float | None
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool | None:
        """None if it could not be measured."""
        if self.value is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    def line(self) -> str:
        """For the terminal: whether it is met, its name, the value and the bound."""
        decision = {True: "met   ", False: "MISSED", None: "  --  "}[self.met]
        bound = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        value = "not measured" if self.value is None else f"{self.value:.4g}"
        return f"{decision}  {self.name}: {value} ({bound})"


def machine() -> dict[str, Any]:
    """Date, kernel and hardware, as far as readers of the numbers need them."""
    cpu_info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in cpu_info if line.startswith("model name")), "")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": model or platform.processor(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cpus": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "virtual_machine": any("hypervisor" in line for line in cpu_info),
        "python": platform.python_version(),
        "psutil": psutil.__version__,
        "load_average_before": os.getloadavg()[0],
    }


def write_result(name: str, result: dict[str, Any], targets: Sequence[Target] = ()) -> Path:
    """Writes benches/results/NAME.json, machine and targets with it."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    judged = [{**asdict(target), "met": target.met} for target in targets]
    path.write_text(json.dumps({**result, "targets": judged}, indent=1, default=_plain) + "\n")
    return path


def _plain(value: object) -> Any:
    if isinstance(value, Spread):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} does not belong in a result")


def leave_a_cpu_alone() -> None:
    """Keeps this process, and all it starts from now on, off the CPU on which contestants run.

    Otherwise a contestant finds the cache sometimes warm and sometimes cold, which at a tenth of a millisecond is most
    of the spread.
    """
    others = os.sched_getaffinity(0) - {_last_cpu()}
    if others:
        os.sched_setaffinity(0, others)


@functools.cache
def _last_cpu() -> int:
    return max(os.sched_getaffinity(0))


class UnavailableError(Exception):
    """A contestant cannot run here; the text is its reason."""


class Contestant:
    """A contestant in its own process: one command per line in, one JSON object per line out.

    Its first object has `unavailable` with a reason, or what it cost to get ready. After that it answers `scan`
    (benches/scan/contestants.py defines the answer), `nothing` (the round trip without a scan) and any other command
    that it knows. It ends with its standard input.
    """

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        # Before it starts any thread, so that its threads inherit it.
        os.sched_setaffinity(self._process.pid, {_last_cpu()})
        try:
            self.ready = self._receive()
        except UnavailableError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, command: str) -> dict[str, Any]:
        """Sends one command and returns the answer."""
        if self._process.stdin is None:
            raise UnavailableError(f"{self.name} is closed")
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._receive()

    def count_syscalls(self, command: str = "scan", thread: str = "") -> tuple[int, dict[str, Any]]:
        """The number of system calls of all its threads, or of those with that name, for one command, without those of
        the round trip; and the answer."""
        calls, answer = self._counted(command, thread)
        return calls - self._counted("nothing", thread)[0], answer

    def close(self) -> None:
        """Ends the process and waits for it."""
        self._process.communicate()

    def _receive(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise UnavailableError(f"{self.name} ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if reason := answer.get("unavailable"):
            raise UnavailableError(reason)
        return answer

    def _counted(self, command: str, thread: str) -> tuple[int, dict[str, Any]]:
        self._until_idle()
        counters = [
            _SyscallCounter(int(task.name))
            for task in Path(f"/proc/{self._process.pid}/task").iterdir()
            if not thread or (task / "comm").read_text().strip() == thread
        ]
        try:
            answer = self.ask(command)
            self._until_idle()
            return sum(counter.read() for counter in counters), answer
        finally:
            for counter in counters:
                counter.close()

    def _until_idle(self) -> None:
        """Waits until its main thread sleeps in the read of the next command: only then is every call counted."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        deadline = time.monotonic() + 10
        while stat.read_text().rpartition(") ")[2][0] != "S" and time.monotonic() < deadline:
            pass


_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_PERF_TYPE_TRACEPOINT = 2
_PERF_ATTR_BYTES = 64  # PERF_ATTR_SIZE_VER0
_PERF_FLAG_INHERIT = 2  # threads started from now on are counted too
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}


@functools.cache
def _tracefs() -> Path:
    """Where the kernel's trace events are; mounted in this process's own mount namespace if necessary."""
    usual = Path("/sys/kernel/tracing")
    if not (usual / "events").exists():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) == 0:
            libc.mount(b"tracefs", str(usual).encode(), b"tracefs", 0, None)
    return usual


class _SyscallCounter:
    """perf_event_open(2) on the tracepoint raw_syscalls:sys_enter of one thread: exact, and without stopping it."""

    def __init__(self, tid: int) -> None:
        event = _tracefs() / "events/raw_syscalls/sys_enter/id"
        number = _PERF_EVENT_OPEN.get(platform.machine())
        if number is None or not event.exists():
            raise UnavailableError("system calls cannot be counted: no tracefs, or not this architecture")
        # struct perf_event_attr: type, size, config, then sample_period, sample_type, read_format, flags.
        attr = (ctypes.c_uint64 * (_PERF_ATTR_BYTES // 8))()
        attr[0] = _PERF_TYPE_TRACEPOINT | _PERF_ATTR_BYTES << 32
        attr[1] = int(event.read_text())
        attr[5] = _PERF_FLAG_INHERIT
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.syscall(number, ctypes.byref(attr), tid, -1, -1, 0)
        if self._fd < 0:
            raise UnavailableError(f"system calls cannot be counted: {os.strerror(ctypes.get_errno())} (needs root)")

    def read(self) -> int:
        return int.from_bytes(os.read(self._fd, 8), "little")

    def close(self) -> None:
        os.close(self._fd)
