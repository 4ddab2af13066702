"""The booted machine itself: what the tests of the units and of the agent rely on."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest

from . import machine
from .host import cgroup_is_removed, own_cgroups, wait_until
from .machine import BootError, CommandError, Machine


def test_systemd_is_up_and_nothing_failed(booted: Machine) -> None:
    assert booted.run("systemctl", "is-system-running").stdout == "running\n"


def test_failing_command_is_reported_with_what_it_said(booted: Machine) -> None:
    with pytest.raises(CommandError, match="ended with 3\nout\nerr"):
        booted.run("sh", "-c", "echo out; echo err >&2; exit 3")


def test_what_is_written_inside_stays_inside(booted: Machine) -> None:
    booted.write("/etc/busyweight/harness.toml", "inside")
    assert booted.run("cat", "/etc/busyweight/harness.toml").stdout == "inside"
    assert not Path("/etc/busyweight/harness.toml").exists()


def test_network_is_the_machine_s_own(booted: Machine) -> None:
    assert booted.run("readlink", "/proc/self/ns/net").stdout.strip() != str(Path("/proc/self/ns/net").readlink())
    assert "127.0.0.1" in booted.run("ip", "address", "show", "lo").stdout


def test_two_machines_do_not_touch_each_other(booted: Machine) -> None:
    with Machine() as other:
        for one in (booted, other):
            one.run("systemd-run", "--unit=sleeper", "sleep", "infinity")
        other.run("systemctl", "stop", "sleeper.service")
        assert booted.show("sleeper.service", "ActiveState") == "active"
    booted.run("systemctl", "stop", "sleeper.service")


def test_poweroff_stops_services_in_order() -> None:
    with Machine() as short_lived:
        short_lived.write("/root/note", "")
        note = short_lived.path("/root/note").open()  # outlives the machine, unlike its /proc
        stop = "--property=ExecStop=sh -c 'echo stopped >/root/note'"
        short_lived.run("systemd-run", "--unit=sleeper", stop, "sleep", "infinity")
        short_lived.poweroff()
        with note:
            assert note.read() == "stopped\n"


def test_killed_tests_leave_no_machine_behind(tmp_path: Path) -> None:
    script = f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from booted.machine import Machine
        with Machine() as booted:
            print(booted.leader, flush=True)
            time.sleep(600)
    """
    tests = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert tests.stdout is not None
    leader = Path(f"/proc/{int(tests.stdout.readline())}")
    tests.kill()
    tests.communicate()
    wait_until(lambda: not leader.exists(), "the machine is gone")
    [name] = [stage.name for stage in tmp_path.iterdir() if stage.is_dir()]
    for group in own_cgroups():  # all that is left, and empty
        wait_until(partial(cgroup_is_removed, group / name), f"{group / name} is empty")
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_machine_that_does_not_boot_says_what_its_console_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_BOOT", "echo this is the console; exit 7")
    with pytest.raises(BootError, match=r"ended with 7\nconsole:\nthis is the console"), Machine():
        pass
