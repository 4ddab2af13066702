"""The Debian package inside a booted machine: put there, taken away, and what it leaves."""

from __future__ import annotations

import re
from pathlib import Path

from tests.booted.machine import Machine

SERVICE, SOCKET = "busyweight.service", "busyweight.socket"
CONFIG = "/etc/busyweight/busyweight.toml"
PACKAGES = Path("/srv")
PYTHON = Path("/usr/bin/python3")
APT = {"DEBIAN_FRONTEND": "noninteractive"}

# What any installation and removal of any package changes.
CHANGES_ANYWAY = re.compile(r"/var/(log|cache|lib/dpkg|lib/apt|backups)/|/etc/ld\.so\.cache ")


def apt(machine: Machine, *arguments: str | Path) -> None:
    machine.run("apt-get", "--yes", *arguments, env=APT, deadline_s=300)


def install(machine: Machine, package: Path, *options: str) -> None:
    machine.copy(package, PACKAGES / package.name)
    apt(machine, "install", *options, PACKAGES / package.name)


def version(machine: Machine) -> str:
    return machine.run("dpkg-query", "--show", "--showformat=${Version}", "busyweight").stdout


def files(machine: Machine) -> set[str]:
    """Every file, with its type and where it points, but for what changes anyway."""
    listed = machine.run("find", "/", "-xdev", "-printf", "%p %y %l\n").stdout.splitlines()
    return {line for line in listed if not CHANGES_ANYWAY.match(line)}
