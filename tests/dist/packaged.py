"""The Debian package inside a booted machine: put there, taken away, and what it leaves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.booted.machine import Machine

SERVICE, SOCKET = "busyweight.service", "busyweight.socket"
CONFIG = "/etc/busyweight/busyweight.toml"
PACKAGES = Path("/srv")
PYTHON = Path("/usr/bin/python3")
NEWER = "99.0.0"
APT = {"DEBIAN_FRONTEND": "noninteractive"}

# What any installation and removal of any package changes.
CHANGES_ANYWAY = re.compile(r"/var/(log|cache|lib/dpkg|lib/apt|backups)/|/etc/ld\.so\.cache ")


def apt(machine: Machine, *arguments: str | Path) -> None:
    machine.run("apt-get", "--yes", *arguments, env=APT, deadline_s=300)


def install(machine: Machine, package: Path, *options: str) -> None:
    machine.copy(package, PACKAGES / package.name)
    apt(machine, "install", *options, PACKAGES / package.name)


def newer(package: Path, scratch: Path) -> Path:
    """The same package again as the version NEWER, with an agent that says so."""
    tree = scratch / "newer"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*", f"Version: {NEWER}-1", control.read_text(), flags=re.M))
    command = tree / "usr/bin/busyweight"
    begins, main, ends = command.read_text().partition("from agent.__main__ import")
    command.write_text(f'{begins}from agent import _scan\n\n_scan.__version__ = "{NEWER}"\n\n{main}{ends}')
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, scratch], check=True, capture_output=True)
    [built] = scratch.glob("busyweight_*.deb")
    return built


def version(machine: Machine) -> str:
    return machine.run("dpkg-query", "--show", "--showformat=${Version}", "busyweight").stdout


def files(machine: Machine) -> set[str]:
    """Every file, with its type and where it points, but for what changes anyway."""
    listed = machine.run("find", "/", "-xdev", "-printf", "%p %y %l\n").stdout.splitlines()
    return {line for line in listed if not CHANGES_ANYWAY.match(line)}
