"""Processes that make their own titles hard to read (hostile.c), and the resources of an agent that reads them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.farm import compile_c

HERE = Path(__file__).parent


@contextmanager
def hostile(way: str, comm: str, title: bytes, *, cgroups: tuple[Path, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """One of them, active when the block begins; its standard input is for `let_go`."""
    program = compile_c("hostile", [HERE / "hostile.c"])
    command: list[str | bytes | Path] = [program, way, comm, "/etc/passwd", title]
    inside = ["sh", "-c", 'for group in $CGROUPS; do echo $$ > "$group/cgroup.procs"; done; exec "$@"', "sh"]
    process = subprocess.Popen(
        [*inside, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"CGROUPS": " ".join(map(str, cgroups)), "PATH": "/usr/bin:/bin", "ROOM": "x" * 100},
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def let_go(process: subprocess.Popen[bytes]) -> None:
    """Readers that hang in it continue."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"let go\n"


def holdings(pid: int) -> dict[str, int]:
    """Resources that must not grow: memory, threads, files."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "rss_kib": int(status["VmRSS"].split()[0]),
        "threads": int(status["Threads"]),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }
