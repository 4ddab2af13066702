"""The Debian package in a booted, fresh Debian 12 without a network: installed, upgraded, removed, purged."""

from __future__ import annotations

import gzip
import re
import subprocess
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import parser
from tests.booted.balancer import Polls
from tests.booted.host import wait_until
from tests.booted.machine import Machine

from .debian import REPOSITORY, deb, wheel
from .packaged import CONFIG, PACKAGES, PYTHON, SERVICE, SOCKET, apt, files, install, version

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1200)]  # the first time debootstrap downloads a Debian


def commands_of(parser: ArgumentParser) -> Iterator[str]:
    """The command lines' beginnings: `busyweight serve`, and so on."""
    for action in parser._actions:
        if isinstance(action.choices, dict):  # no other has parsers for choices
            for command in action.choices.values():
                yield command.prog
                yield from commands_of(command)


@pytest.fixture(scope="module")
def installed(tree: Path) -> Iterator[Machine]:
    """A Debian with the package, and a worker that makes it full."""
    with Machine(tree) as machine:
        install(machine, deb())
        machine.run("cp", "/bin/sleep", "/opt/ruby")
        worker = 'exec -a "sidekiq 7.3.0 shop [2 of 2 busy]" /opt/ruby infinity'
        machine.run("systemd-run", "--unit=worker", "bash", "-c", worker)
        yield machine
        assert "Traceback" not in machine.journal(SERVICE)


@pytest.fixture
def full(installed: Machine) -> Machine:
    """The same; the agent says that nothing is free."""
    installed.write(CONFIG, "[weight]\ncapacity = 1\n")
    installed.run("systemctl", "reload", SERVICE)

    def said() -> set[str]:
        with Polls(installed, python=PYTHON) as polls:
            pass
        return polls.heard

    # An order of the test before may have ended just now, which is said for some seconds.
    wait_until(lambda: said() == {"up 0% #1/1 busy"}, "nothing is free")
    return installed


def test_apt_install_ends_with_the_service_enabled_running_and_answering(installed: Machine) -> None:
    assert installed.run("systemctl", "is-enabled", SERVICE).stdout == "enabled\n"
    assert installed.run("systemctl", "is-active", SERVICE).stdout == "active\n"

    def counts() -> bool:
        with Polls(installed, python=PYTHON) as polls:
            pass
        return all(re.fullmatch(r"up \d+% #\d+/\d+ busy", answer) for answer in polls.heard)

    # Until the worker is seen: in a pid namespace of its own, no worker is not idle.
    wait_until(counts, "the worker is counted")


def test_socket_unit_is_there_and_left_to_the_operator(installed: Machine) -> None:
    assert installed.run("systemctl", "is-enabled", SOCKET, check=False).stdout == "disabled\n"
    assert installed.run("systemctl", "is-active", SOCKET, check=False).stdout == "inactive\n"


COMPLETES = """
. /usr/share/bash-completion/completions/busyweight
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_shtab_busyweight
echo "${COMPREPLY[*]}"
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [(["dra"], {"drain"}), (["haproxy", ""], {"lint", "snippet"}), (["drain", "--re"], {"--reason"})],
)
def test_the_shell_completes_what_the_command_line_knows(
    installed: Machine, words: list[str], completed: set[str]
) -> None:
    said = installed.run("bash", "-c", COMPLETES, "bash", "busyweight", *words).stdout
    assert completed <= set(said.split())


def test_debians_own_tests_of_the_package_pass(installed: Machine) -> None:
    installed.copy(REPOSITORY / "debian/tests/answers", "/run/answers")
    assert installed.run("/run/answers").stdout.splitlines()[-1] == "well"


def test_command_asks_the_running_agent(installed: Machine) -> None:
    assert installed.run("busyweight", "status").stdout
    assert installed.run("busyweight", "config").stderr == ""


def test_upgrade_keeps_the_last_weight_and_releases_nothing(full: Machine, tmp_path: Path) -> None:
    subprocess.run([REPOSITORY / "tools/deb.sh", wheel(), tmp_path, "2"], check=True, capture_output=True)
    [newer] = tmp_path.glob("*-2_*.deb")
    agent = full.show(SERVICE, "MainPID")

    with Polls(full, python=PYTHON) as polls:
        install(full, newer, "-o", "Dpkg::Options::=--force-confold")

    assert version(full).endswith("-2")
    assert full.show(SERVICE, "MainPID") not in (agent, "0")
    assert polls.heard - polls.failures == {"up 0% #1/1 busy"}
    assert polls.runs[-1][1] == "up 0% #1/1 busy"


def test_upgrade_under_the_socket_loses_no_poll(full: Machine) -> None:
    full.run("systemctl", "stop", SERVICE)
    full.run("systemctl", "enable", "--now", SOCKET, SERVICE)
    agent = full.show(SERVICE, "MainPID")

    with Polls(full, python=PYTHON) as polls:
        install(full, deb(), "--reinstall", "--allow-downgrades", "-o", "Dpkg::Options::=--force-confold")

    assert full.show(SERVICE, "MainPID") not in (agent, "0")
    assert polls.heard == {"up 0% #1/1 busy"}


def test_remove_releases_the_weight_and_ends_socket_and_service(full: Machine) -> None:
    full.run("systemctl", "start", SOCKET)
    with Polls(full, python=PYTHON) as polls:
        apt(full, "remove", "busyweight")

    released = [answer for _, answer in polls.runs if answer.startswith("up 100%")]
    assert released, polls.runs
    assert polls.runs[-1][1] == "(ConnectionRefusedError)"
    assert full.path(CONFIG).exists()


@pytest.mark.parametrize("down", [False, True])
def test_remove_takes_an_order_back_before_its_record_is_gone(tree: Path, down: bool) -> None:
    with Machine(tree) as machine:
        install(machine, deb())
        machine.run("busyweight", "maint", "--reason", "new disks")
        if down:
            machine.run("systemctl", "stop", SERVICE)
        with Polls(machine, python=PYTHON) as polls:
            apt(machine, "purge", "busyweight")

        words = [answer for _, answer in polls.runs if not answer.startswith("(")]
        last_maint = max(at for at, answer in enumerate(words) if answer.startswith("maint"))
        assert any(answer.startswith("ready up") for answer in words[last_maint + 1 :]), polls.runs
        # The release may last a little longer than what takes the order back.
        assert words[-1] in {"ready up 100% #stopping", "up 100% #stopping"}, polls.runs
        assert polls.runs[-1][1] == "(ConnectionRefusedError)"


def test_remove_and_purge_leave_nothing(tree: Path) -> None:
    with Machine(tree) as machine:
        machine.copy(deb(), PACKAGES / deb().name)
        machine.run("systemctl", "start", "systemd-logind")  # which apt would, and which has files of its own
        before = files(machine)
        install(machine, deb())
        machine.run("busyweight", "drain", "--reason", "so that there is state to remove")
        wait_until(lambda: machine.path("/var/lib/private/busyweight").exists(), "there is state")

        apt(machine, "remove", "busyweight")
        assert machine.path(CONFIG).exists()
        apt(machine, "purge", "--auto-remove", "busyweight")

        assert sorted(before ^ files(machine)) == []
        units = machine.run("systemctl", "list-unit-files", "--no-legend", "busyweight*", check=False).stdout
        assert units == ""
        assert not machine.path("/run/busyweight").exists()


def test_manual_page_has_every_command_of_the_command_line(tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", deb(), tmp_path], check=True)
    page = gzip.decompress((tmp_path / "usr/share/man/man1/busyweight.1.gz").read_bytes()).decode()
    commands = list(commands_of(parser()))
    assert "busyweight serve" in commands
    assert [command for command in commands if f".SS \\fB{command}\\fR\n" not in page] == []


def test_live_titles_are_where_the_page_says(tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", deb(), tmp_path], check=True)
    place, contrib = Path("/usr/share/busyweight/contrib"), REPOSITORY / "contrib"
    assert f"`{place}`" in (contrib / "README.md").read_text()
    shipped = {file.name: file.read_bytes() for file in (tmp_path / place.relative_to("/")).iterdir()}
    assert shipped == {file.name: file.read_bytes() for file in contrib.iterdir()}


def test_lintian_finds_no_fault() -> None:
    done = subprocess.run(["lintian", "--fail-on", "error,warning", deb()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
