"""The command line as people use it: arguments in, output and exit code out."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent import cli

COMMAND = Path(sys.executable).with_name("busyweight")


class Done:
    """A command's output and exit code."""

    def __init__(self, code: int, out: bytes, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "Traceback" not in err


Run = Callable[..., Done]


def run(*words: object, program: tuple[object, ...] = (COMMAND,)) -> Done:
    done = subprocess.run([*map(str, program), *map(str, words)], capture_output=True, timeout=60, check=False)
    return Done(done.returncode, done.stdout, done.stderr.decode())


def in_this_process(captured: pytest.CaptureFixture[bytes]) -> Run:
    """The same in this process, which is faster."""

    def run(*words: object) -> Done:
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = captured.readouterr()
        return Done(code, out, err.decode())

    return run
