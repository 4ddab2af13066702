"""Pythons that this machine does not have, with what pip would install for them, and agents that run there.

It must never put an emulated program into the system's hands: nothing here is run by its name alone.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

from tests.real.parts import Agent

from .debian import wheel

HERE = Path(__file__).parent
OTHER = "aarch64" if platform.machine() == "x86_64" else "x86_64"


class Elsewhere:
    """A Python of another machine, which is made once and kept, as long as the script that makes it is the same."""

    def __init__(self, soabi: str, wheel: Path, tags: tuple[str, ...], *make: str) -> None:
        """`soabi`: how its extension modules are called; `wheel`: the one that is for it; `tags`: what others may be
        tagged as to be taken; `make`: the script here, and all but its directory."""
        self.soabi, self.wheel, self.tags = soabi, wheel, tags
        script = HERE / make[0]
        recipe = hashlib.sha256(script.read_bytes() + (HERE / "own-apt").read_bytes()).hexdigest()[:8]
        release = platform.freedesktop_os_release()["VERSION_CODENAME"]
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "busyweight"
        self.tree = cache / ",".join((release, *make, recipe))
        if not self.tree.exists():
            done = subprocess.run(
                [str(script), *make[1:], str(self.tree)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{done.stdout}{done.stderr}"[-5000:]
        self.version = self.run("-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()

    def command(self, *words: str) -> list[str]:
        return [str(self.tree / "run"), *words]

    def run(self, *words: str, **environ: str) -> str:
        done = subprocess.run(
            self.command(*words), env=os.environ | environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, place: Path) -> None:
        """The wheel and what it requires, as pip there would choose them, without a compiler."""
        tags = [f"--platform={tag}" for tag in self.tags]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"--target={place}"]
        subprocess.run([*pip, *tags, f"--python-version={self.version}", self.wheel], check=True)


def other_processor() -> Elsewhere:
    tags = tuple(f"{tag}_{OTHER}" for tag in ("manylinux2014", "manylinux_2_17", "manylinux_2_28"))
    return Elsewhere(f"-{OTHER}-linux-gnu", wheel(OTHER), tags, "other-python", OTHER)


def musl() -> Elsewhere:
    tags = ("musllinux_1_1_x86_64", "musllinux_1_2_x86_64")
    return Elsewhere("-x86_64-linux-musl", wheel("x86_64", "musllinux"), tags, "musl-python")


class AgentElsewhere(Agent):
    """The agent, run by such a Python."""

    READY_DEADLINE_S = 60.0

    def __init__(self, python: Elsewhere, packages: Path, home: Path) -> None:
        super().__init__(home)
        self.python, self.packages = python, packages

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PYTHONPATH": str(self.packages)}

    def argv(self) -> list[str]:
        return self.python.command("-m", "agent", *super().argv()[1:])

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.call(*self.python.command("-m", "agent", *words))
