"""The wheel of the other processor: what it needs, and that the agent runs there, with a Python of that machine.

The other processor is qemu's, and this machine's kernel serves both: what only a real machine shows is
not tried. It must never put an emulated program into the system's hands: nothing here is run by its name alone.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.parts import Agent
from tests.tree import Tree

from .debian import REPOSITORY, wheel

pytestmark = [pytest.mark.dist, pytest.mark.timeout(3600)]  # the first time a Python is downloaded

OTHER = "aarch64" if platform.machine() == "x86_64" else "x86_64"

# What a wheel may be tagged as for its machine to take it.
TAGS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")


class Machine:
    """A Python of another machine, and what pip installs for it."""

    def __init__(self, processor: str) -> None:
        self.processor = processor
        release = platform.freedesktop_os_release()["VERSION_CODENAME"]
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "busyweight"
        self.tree = cache / f"{release},python,{processor}"
        if not self.tree.exists():
            make = [str(REPOSITORY / "tests/dist/other-python"), processor, str(self.tree)]
            done = subprocess.run(make, capture_output=True, text=True, check=False)
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
        tags = [f"--platform={tag}_{self.processor}" for tag in TAGS]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"--target={place}"]
        subprocess.run([*pip, *tags, f"--python-version={self.version}", wheel(self.processor)], check=True)


class Elsewhere(Agent):
    """The agent of that machine."""

    READY_DEADLINE_S = 60.0

    def __init__(self, machine: Machine, packages: Path, home: Path) -> None:
        super().__init__(home)
        self.machine, self.packages = machine, packages

    def environment(self) -> dict[str, str]:
        return super().environment() | {"PYTHONPATH": str(self.packages)}

    def argv(self) -> list[str]:
        return self.machine.command("-m", "agent", *super().argv()[1:])

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.call(*self.machine.command("-m", "agent", *words))


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine(OTHER)


@pytest.fixture(scope="module")
def packages(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packages")
    machine.install(place)
    return place


@pytest.fixture
def agent(machine: Machine, packages: Path, tmp_path: Path) -> Iterator[Elsewhere]:
    with Elsewhere(machine, packages, tmp_path) as running:
        yield running


def test_it_is_that_machine(machine: Machine) -> None:
    asked = "import platform, sysconfig; print(platform.machine(), sysconfig.get_config_var('SOABI'))"
    assert machine.run("-c", asked).split()[0] == machine.processor
    assert machine.run("-c", asked).strip().endswith(f"-{machine.processor}-linux-gnu")


def test_one_scan_counts_what_there_is(machine: Machine, packages: Path, tmp_path: Path) -> None:
    Tree(tmp_path / "proc").workers(busy=2, idle=3)
    (tmp_path / "busyweight.toml").write_text("[weight]\ncapacity = 8\n")
    options = ["--procfs", str(tmp_path / "proc"), "--config", str(tmp_path / "busyweight.toml")]
    said = machine.run("-m", "agent", "check", *options, PYTHONPATH=str(packages))
    assert said == "up 75% #2/8 busy\n"
    assert re.match(r"up ", machine.run("-m", "agent", "check", PYTHONPATH=str(packages)))


def test_it_serves_takes_orders_and_releases_when_it_stops(agent: Elsewhere) -> None:
    assert agent.ask().startswith(b"up ")
    agent.order("drain", "--reason", "other machine")
    assert agent.ask().startswith(b"drain")
    agent.order("ready")
    assert agent.ask().startswith(b"ready up")


def test_the_wheel_needs_no_more_than_it_says(machine: Machine) -> None:
    audit = [sys.executable, "-m", "auditwheel", "show", str(wheel(machine.processor))]
    shown = subprocess.run(audit, capture_output=True, text=True, check=True).stdout
    assert re.search(rf'following platform tag:\s+"manylinux_2_17_{machine.processor}"', shown), shown
