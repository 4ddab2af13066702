"""A farm of real processes with real titles, for tests and benches.

    with Farm() as farm:
        [worker] = farm.spawn(comm="ruby", title=b"sidekiq 7.3.0 shop [0 of 10 busy]")
        farm.retitle({worker: b"sidekiq 7.3.0 shop [3 of 10 busy]"})

The processes are forks of one small static C program (farm.c), about 100 KB of kernel and own memory each,
so tens of thousands fit. A title is written as MRI's setproctitle writes it: over the process's own argv,
padded with NULs; a longer one flows on into its environment. Everything a farm started dies with it, however
it ends. It must never signal, stop or change a process that it did not start.
"""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.farm.build import CompileError, compile_c

__all__ = ["CompileError", "Farm", "FarmError", "compile_c", "room_for", "sidekiq_title"]

_HERE = Path(__file__).parent
_SOURCES = [_HERE / "farm.c", _HERE / "member.c", _HERE / "roster.c"]


class FarmError(Exception):
    """The farm could not do what was asked; the text is its own reason."""


def sidekiq_title(busy: int, total: int = 10, *, tag: str = "shop", suffix: str = "") -> bytes:
    """The title of a Sidekiq 7.3 process, e.g. `sidekiq 7.3.0 shop [3 of 10 busy]`; `suffix` is appended."""
    return f"sidekiq 7.3.0 {tag} [{busy} of {total} busy]{suffix}".encode()


class Farm:
    """Starts processes and changes them; a context manager that ends them all.

    `argv_bytes` and `environment_bytes` are the areas every spawned process has for its title: up to the
    first it fits and is padded, up to their sum it overflows, beyond it is cut. A process after `exec` has
    the area of its own argv instead. Every method returns only when the kernel shows what was asked for.
    """

    def __init__(self, *, argv_bytes: int = 128, environment_bytes: int = 8192) -> None:
        program = compile_c("farm", _SOURCES, headers=[_HERE / "farm.h"])
        self._directory = tempfile.mkdtemp(prefix="farm-")
        Path(self._directory).chmod(0o755)  # members under another user execute themselves through it
        links = f"FARM_LINKS={self._directory}"
        padding = max(environment_bytes - len(links) - len("PADDING=") - 2, 0)
        self._process = subprocess.Popen(
            ["farm", "x" * max(argv_bytes - 6, 0)],
            executable=program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"FARM_LINKS": self._directory, "PADDING": "x" * padding},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The farm's own process: the parent of all that it spawned."""
        return self._process.pid

    def close(self) -> None:
        """Ends every process of the farm, and returns when all are gone."""
        self._process.communicate()
        shutil.rmtree(self._directory, ignore_errors=True)

    def spawn(
        self,
        count: int = 1,
        *,
        comm: str = "sleep",
        title: bytes | None = None,
        threads: int = 1,
        uid: int = -1,
    ) -> list[int]:
        """Starts `count` processes, each with `threads` threads in all (at most 65), and gives their pids.

        `title` is what /proc/PID/cmdline will read (`comm` if None); it may hold NULs, as an argv does. `uid`
        other than the farm's own needs root.
        """
        text = comm.encode() if title is None else title
        return self._pids("spawn", count, threads - 1, uid, _hex(comm), _hex(text))

    def retitle(self, titles: Mapping[int, bytes]) -> None:
        """Each process writes its own new title, as setproctitle does; all at once."""
        lines = [f"title {len(titles)}", *(f"{pid} {_hex(title)}" for pid, title in titles.items())]
        self._ask("\n".join(lines))

    def rename(self, pid: int, comm: str) -> None:
        """The process changes its comm, without an exec (prctl PR_SET_NAME)."""
        self._ask("rename", pid, _hex(comm))

    def exec(self, pid: int, comm: str, argv: Sequence[bytes]) -> None:
        """The process executes a program called `comm` under the same pid, with this argv and one thread.

        Its next title has only the bytes of that argv, and then overflows, as a real worker's does.
        """
        self._ask("exec", pid, _hex(comm), _hex(b"".join(arg + b"\0" for arg in argv)))

    def fork_copies(self, pid: int, count: int = 1, *, comm: str | None = None) -> list[int]:
        """The process forks copies of itself, which keep its title; `comm` is their name if not the same.

        A copy outlives its parent. It can be killed and changed like any other, not stopped or left a zombie.
        """
        return self._pids("fork", pid, count, _hex(comm or ""))

    def kill(self, pids: Iterable[int]) -> None:
        """SIGKILL, and reap: when this returns the pids are free."""
        self._ask("kill", *pids)

    def zombify(self, pids: Iterable[int]) -> None:
        """SIGKILL without reaping: they stay zombies until `reap` or `kill`."""
        self._ask("zombie", *pids)

    def reap(self, pids: Iterable[int]) -> None:
        """Reaps zombies."""
        self._ask("reap", *pids)

    def stop(self, pids: Iterable[int]) -> None:
        """SIGSTOP; a stopped process cannot be asked for anything but `resume` and `kill`."""
        self._ask("stop", *pids)

    def resume(self, pids: Iterable[int]) -> None:
        """SIGCONT."""
        self._ask("resume", *pids)

    def hold_mmap_lock(self, pid: int, *, mapping_mib: int = 2048) -> None:
        """From now on the process calls mprotect over a large mapping in a loop; readers of its cmdline wait.

        The longer the mapping, the longer each wait. The next thing asked of the process, e.g. `release`,
        ends it.
        """
        self._ask("hold", pid, mapping_mib)

    def release(self, pid: int) -> None:
        """Ends `hold_mmap_lock`."""
        self._ask("release", pid, 0)

    def burn(self, pids: Iterable[int], percent: int = 100) -> None:
        """From now on each takes that share of a core, in periods of 10 ms; it can be asked for anything meanwhile."""
        for pid in pids:
            self._ask("burn", pid, percent)

    def rest(self, pids: Iterable[int]) -> None:
        """Ends `burn`."""
        for pid in pids:
            self._ask("burn", pid, 0)

    def churn(self, per_second: int, seconds: int, *, comm: str = "sh", fork_only: bool = False) -> int:
        """For so many seconds, so many processes a second fork, execute `comm` and exit; returns at once.

        With `fork_only` they execute nothing but call themselves so, which is four times as fast. The pid is that of
        their parent; `churned` waits for the end, `kill` ends it early.
        """
        return self._pids("churn", per_second, seconds, int(fork_only), _hex(comm))[0]

    def churned(self, pid: int) -> int:
        """Waits for the end of a `churn`; how many processes it started (fewer if the host is slow)."""
        return self._pids("churned", pid)[0]

    def _pids(self, *words: object) -> list[int]:
        return [int(word) for word in self._ask(*words).split()]

    def _ask(self, *words: object) -> str:
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        if pipe_in is None or pipe_out is None or pipe_in.closed:
            raise FarmError("the farm is closed")
        with contextlib.suppress(BrokenPipeError):
            pipe_in.write(" ".join(map(str, words)).encode() + b"\n")
            pipe_in.flush()
        status, _, rest = pipe_out.readline().decode().strip().partition(" ")
        if status != "ok":
            raise FarmError(rest or f"the farm died with status {self._process.wait()}")
        return rest


def _hex(text: bytes | str) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return raw.hex() or "-"


@contextlib.contextmanager
def room_for(tasks: int) -> Iterator[None]:
    """Makes sure that `tasks` more processes and threads fit; raised kernel limits are restored at the end.

    Raises FarmError where a limit is too low and may not be raised.
    """
    wanted = int(tasks * 1.1) + 8192  # beside whatever else runs
    raised: dict[Path, str] = {}
    try:
        for name in ("pid_max", "threads-max"):
            limit = Path("/proc/sys/kernel") / name
            before = limit.read_text()
            if int(before) >= wanted:
                continue
            try:
                limit.write_text(str(wanted))
            except OSError as error:
                raise FarmError(
                    f"{limit} is {before.strip()}, {tasks} tasks need {wanted}: sysctl -w kernel.{name}={wanted}"
                ) from error
            raised[limit] = before
        yield
    finally:
        for limit, before in raised.items():
            limit.write_text(before)
