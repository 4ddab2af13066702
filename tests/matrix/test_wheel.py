"""The wheel in each release's own Python."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dist.debian import wheel
from tests.real.parts import Agent, Installed, free_port, get

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1200)]


@pytest.mark.cell("The wheel", "installed with all extras, without a compiler")
def test_wheel_says_its_version(installed: Installed) -> None:
    said = installed.debian.run([installed.program, "--version"]).stdout
    assert said == f"busyweight {wheel().name.split('-')[1]}\n"
    compilers = installed.debian.run(["sh", "-c", "command -v cc gcc clang rustc cargo"], check=False)
    assert compilers.stdout == ""


@pytest.mark.cell("The wheel", "no warning of Python's")
def test_python_warns_of_nothing(installed: Installed) -> None:
    python = installed.program.with_name("python")
    script = "import agent.cli, sys; sys.exit(agent.cli.main(['check']))"
    done = installed.debian.run([python, "-W", "error", "-X", "dev", "-c", script], check=False)
    # In a pid namespace of the tests' own there is no worker to see.
    assert done.stderr == "busyweight: unknown: sees no workers, nor the whole host\n"


@pytest.mark.cell("The wheel", "serves, shows its metrics, and stops in order")
def test_agent_serves_and_stops(installed: Installed, tmp_path: Path) -> None:
    port = free_port()
    config = f'[scan]\npid_namespace = "any"\n[metrics]\nlisten = "127.0.0.1:{port}"\n[reply]\non_stop = "keep"\n'
    with Agent(tmp_path, config, of=installed) as agent:
        assert re.fullmatch(rb"up \d+% #\d+/\d+ busy\n", agent.ask())
        assert json.loads(agent.order("status", "--json"))["sample"]["visible"]
        assert b"busyweight_weight_ratio" in get(port, "/metrics").body
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(10.0) == 0, agent.evidence()
        assert "Traceback" not in agent.log_text(), agent.evidence()


def test_free_threaded_python_refuses_the_wheel(tmp_path: Path) -> None:
    """Should this fail, docs/support.md has good news to tell."""

    def pip(*abis: str) -> subprocess.CompletedProcess[str]:
        python = ["--python-version=3.14", "--implementation=cp", *(f"--abi={abi}" for abi in abis)]
        options = ["--no-deps", "--dry-run", "--only-binary=:all:", f"--target={tmp_path}", *python]
        command = [sys.executable, "-m", "pip", "install", *options, str(wheel())]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    pip("cp314", "abi3").check_returncode()
    assert "is not a supported wheel on this platform" in pip("cp314t").stderr
