"""Compiles the small C programs of tests and benches, once per content.

It must never write beside the sources: results go below `target/`, or a temporary directory where that is not
to be had.
"""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class CompileError(Exception):
    """There is no C compiler, or it refused a source; the text says which and what to do."""


def compile_c(
    name: str,
    sources: Sequence[Path],
    *,
    headers: Sequence[Path] = (),
    libraries: Sequence[str] = (),
    static: bool = True,
) -> Path:
    """The program `name` built from `sources`; kept under a hash of all contents, so built once."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise CompileError("no C compiler (gcc or cc) in PATH: install one, e.g. apt-get install gcc libc6-dev")
    flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", *(["-static"] if static else [])]
    digest = hashlib.sha256(" ".join([compiler, *flags]).encode())
    for source in (*sources, *headers):
        digest.update(source.read_bytes())
    program = _build_directory() / f"{name}-{digest.hexdigest()[:16]}"
    if program.exists():
        return program
    # Built under another name and moved into place, so two builders cannot see each other's halves.
    unfinished = program.with_name(f"{program.name}.{os.getpid()}")
    built = subprocess.run(
        [compiler, *flags, "-o", str(unfinished), *map(str, sources), *(f"-l{library}" for library in libraries)],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        raise CompileError(f"{compiler} could not build {name}:\n{built.stderr}")
    unfinished.replace(program)
    return program


def _build_directory() -> Path:
    wanted = ROOT / "target" / "c"
    try:
        wanted.mkdir(parents=True, exist_ok=True)
    except OSError:
        wanted = Path(tempfile.gettempdir()) / f"busyweight-c-{os.getuid()}"
        wanted.mkdir(mode=0o700, exist_ok=True)
        if wanted.stat().st_uid != os.getuid():
            raise CompileError(f"{wanted} belongs to someone else: remove it or set TMPDIR") from None
    return wanted
