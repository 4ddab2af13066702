"""A checkout's virtual environment without its checkout: the tests' own agent, libraries and tools, elsewhere.

Nothing is built or copied: files of a few lines name what the tests' environment has.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def make(place: Path) -> Path:
    """A virtual environment in this directory, with the command; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    [libraries] = place.glob("lib/python3.*/site-packages")
    (libraries / "tests.pth").write_text(f"{REPOSITORY / 'python'}\n{sysconfig.get_path('platlib')}\n")
    python = place / "bin/python"
    command = place / "bin/busyweight"
    command.write_text(f'#!/bin/sh\nexec "{python}" -m agent "$@"\n')
    command.chmod(0o755)
    return python
