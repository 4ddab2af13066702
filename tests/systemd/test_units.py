"""The systemd units match their README, and systemd finds nothing wrong with them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.serve.startup import FIRST_SAMPLE_S
from tests.missing import need

UNITS = Path(__file__).resolve().parents[2] / "systemd"
FILES = ("busyweight.service", "busyweight.socket", "ebpf.conf")


def directives(name: str) -> list[str]:
    """The `Name=value` lines of a unit, in order."""
    lines = (UNITS / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "["))]


def explained(name: str) -> dict[str, str]:
    """Each line that the README explains for a unit, with the reason."""
    readme = (UNITS / "README.md").read_text()
    _, found, section = readme.partition(f"## {name}, line by line\n")
    assert found, f"README.md has no section for {name}"
    section = section.partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", section, re.MULTILINE))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as installed, with a command in the agent's place that is there on every machine. They have names of
    their own: this machine's drop-ins for an agent of its own are not theirs."""
    need("systemd-analyze", "systemd")
    for name in FILES[:2]:
        text = (UNITS / name).read_text()
        (tmp_path / name.replace("busyweight", "tried")).write_text(text.replace("/usr/bin/busyweight", "/bin/true"))
    return tmp_path


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        # Without what the administrator of this machine has changed or added.
        env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_UNIT_PATH": "/usr/lib/systemd/system"},
    )


@pytest.mark.parametrize("name", FILES)
def test_readme_explains_each_line_of_a_unit_and_no_other(name: str) -> None:
    assert list(explained(name)) == directives(name)


@pytest.mark.parametrize("name", FILES)
def test_every_reason_is_a_sentence(name: str) -> None:
    assert [line for line, why in explained(name).items() if len(why.split()) < 3 or not why.endswith(".")] == []


@pytest.mark.parametrize("drop_in", [False, True])
def test_systemd_finds_no_fault_in_the_units(installed: Path, drop_in: bool) -> None:
    if drop_in:
        add_ebpf(installed)
    verified = analyze("verify", "--man=no", installed / "tried.service", installed / "tried.socket")
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_verification_does_find_a_misspelt_line(installed: Path) -> None:
    with (installed / "tried.service").open("a") as unit:
        unit.write("[Service]\nProtectHom=yes\n")
    assert "ProtectHom" in analyze("verify", "--man=no", installed / "tried.service").stderr


@pytest.mark.parametrize(("drop_in", "at_most"), [(False, 14), (True, 16)])
def test_exposure_stays_low(installed: Path, drop_in: bool, at_most: int) -> None:
    if drop_in:
        add_ebpf(installed)
    # The threshold is in tenths of what is shown; above it the command fails.
    judged = analyze("security", "--offline=true", f"--threshold={at_most}", installed / "tried.service")
    assert judged.returncode == 0, judged.stdout


def test_stop_timeout_leaves_time_for_the_default_release() -> None:
    [timeout] = re.findall(r"^TimeoutStopSec=(\d+)s$", (UNITS / "busyweight.service").read_text(), re.MULTILINE)
    default_release_for_s = 5
    assert int(timeout) >= 2 * default_release_for_s


def test_start_timeout_leaves_time_for_a_first_scan_that_hangs() -> None:
    [timeout] = re.findall(r"^TimeoutStartSec=(\d+)s$", (UNITS / "busyweight.service").read_text(), re.MULTILINE)
    assert int(timeout) >= 2 * FIRST_SAMPLE_S


def add_ebpf(installed: Path) -> None:
    drop_ins = installed / "tried.service.d"
    drop_ins.mkdir()
    shutil.copy(UNITS / "ebpf.conf", drop_ins)
