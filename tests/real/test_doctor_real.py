"""`busyweight doctor` against real processes, a real hidden /proc, and a real HAProxy."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.tools.doctor import workers
from tests.farm import Farm, sidekiq_title

from .parts import DEFAULTS, HAProxy, Mortal, free_port, until

DEADLINE_S = 10.0


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that every user can read."""
    home = Path(tempfile.mkdtemp(prefix="doctor-"))
    home.chmod(0o755)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def comm() -> str:
    """A name that no other process has."""
    return f"bw{os.getpid() % 100_000}d"


class Host:
    """Workers with a name of their own, 3 of them busy, and an agent that counts just these."""

    def __init__(self, home: Path, farm: Farm, comm: str) -> None:
        self.farm = farm
        self.pids = farm.spawn(3, comm=comm, title=sidekiq_title(2))
        self.config = f'[scan]\ndiscovery = "sweep"\n[workers]\ncomm = ["{comm}"]\n[weight]\ncapacity = 12\n'
        self.agent = Mortal(home, self.config)

    def doctor(self, *more: str) -> dict[str, list[dict[str, str]]]:
        """The findings by check. Workers of others on this machine may be found, too."""
        words = ["--config", str(self.agent.config_file), "--control", str(self.agent.control), *more]
        done = self.agent.run("doctor", "--json", *words)
        assert done.stderr == ""
        found: dict[str, list[dict[str, str]]] = {}
        for finding in json.loads(done.stdout)["checks"]:
            found.setdefault(finding["check"], []).append(finding)
        failed = any(finding["state"] == "fail" for findings in found.values() for finding in findings)
        assert done.returncode == failed
        return found


@pytest.fixture
def host(home: Path, comm: str) -> Iterator[Host]:
    with Farm() as farm:
        host = Host(home, farm, comm)
        yield host
        host.agent.stop()


@pytest.fixture
def haproxy(home: Path, host: Host) -> HAProxy:
    """Not started; its servers a and b ask the agent, c asks none."""
    web = free_port()
    line = f"127.0.0.1:{web} weight 100"
    ours = f"agent-check agent-inter 200ms agent-port {host.agent.port}"
    servers = f" server a {line} {ours}\n server b {line} {ours}\n server c {line}\n"
    return HAProxy(home, f"{DEFAULTS}backend web\n{servers}")


def states(findings: list[dict[str, str]]) -> list[str]:
    return [finding["state"] for finding in findings]


def test_haproxys_weights_are_compared_with_what_the_agent_says(host: Host, haproxy: HAProxy) -> None:
    with host.agent, haproxy:
        found = host.doctor("--haproxy-socket", str(haproxy.socket))
        assert states(found["haproxy"]) == ["ok"]
        assert found["haproxy"][0]["what"] == "weights match the agent's: web/a 75 of 100, web/b 75 of 100"
        assert "so agent-inter is about" in found["agent-inter"][0]["what"]

        haproxy.change("disable agent web/b")
        haproxy.change("set weight web/b 10%")
        found = host.doctor("--haproxy-socket", str(haproxy.socket))
        assert states(found["haproxy"]) == ["warn", "ok"]
        assert "web/b: its agent-check is disabled, so it stays at weight 10" in found["haproxy"][0]["what"]


def test_a_weight_that_is_not_what_the_agent_says_is_a_fail(home: Path, host: Host, haproxy: HAProxy) -> None:
    # A static algorithm takes no weight between 0 and 100 %.
    haproxy.write_config(haproxy.config_file.read_text().partition("defaults")[2].join(["defaults", ""]))
    config = haproxy.config_file.read_text().replace("backend web\n", "backend web\n balance static-rr\n")
    haproxy.config_file.write_text(config)
    with host.agent, haproxy:
        found = host.doctor("--haproxy-socket", str(haproxy.socket))
    assert states(found["haproxy"]) == ["fail", "fail"]
    assert found["haproxy"][0]["what"] == "web/a: weight 100 of 100, but the agent replies 'up 75% #3/12 busy'"


def test_an_agent_that_haproxy_does_not_reach_is_a_fail(host: Host, haproxy: HAProxy) -> None:
    with haproxy:
        haproxy.wait_server("web", "a", "refused", lambda row: "L4CON" in row["agent_status"], DEADLINE_S)
        found = host.doctor("--haproxy-socket", str(haproxy.socket))
    assert states(found["haproxy"]) == ["fail", "fail"]
    assert "HAProxy cannot reach the agent (L4CON" in found["haproxy"][0]["what"]


def test_a_haproxy_that_asks_another_agent_or_none_is_a_warning(host: Host, haproxy: HAProxy) -> None:
    haproxy.config_file.write_text(haproxy.config_file.read_text().replace(str(host.agent.port), str(free_port())))
    with host.agent, haproxy:
        found = host.doctor("--haproxy-socket", str(haproxy.socket))
    assert states(found["haproxy"]) == ["warn"]
    assert "busyweight haproxy lint" in found["haproxy"][0]["remedy"]


def test_a_socket_that_is_not_haproxys_is_a_fail_with_clear_words(home: Path, host: Host) -> None:
    def told(path: Path) -> str:
        found = host.doctor("--haproxy-socket", str(path))
        assert states(found["haproxy"]) == ["fail"]
        return found["haproxy"][0]["what"]

    # Without an agent nobody's polls are watched, which would take seconds.
    dead = home / "dead.sock"
    subprocess.run([sys.executable, "-c", f"import socket; socket.socket(1).bind({str(dead)!r})"], check=True)
    assert told(dead) == f"nothing answers at {dead}"
    assert "no socket at" in told(home / "none")
    with host.agent:
        assert "does not respond like an HAProxy stats socket" in told(host.agent.control)


def test_a_worker_that_the_comm_filter_hides_is_found_in_the_real_proc(host: Host, comm: str) -> None:
    [hidden] = host.farm.spawn(comm=f"{comm}-main", title=sidekiq_title(1))
    copies = host.farm.fork_copies(host.pids[0], comm="processor")
    found = host.doctor()
    mine = [finding for finding in found["comm filter"] if f"called {comm}-main" in finding["what"]]
    assert states(mine) == ["fail"]
    assert f"(pid {hidden})" in mine[0]["what"]
    assert mine[0]["remedy"] == f'set workers.comm = ["{comm}", "{comm}-main"]'
    assert str(copies[0]) not in json.dumps(found["comm filter"])


IMPATIENT = """
import sys
from agent import cli
from agent.tools.doctor import workers
workers.SILENT_S = float(sys.argv[1])
cli.main(["doctor", "--json", *sys.argv[2:]])
"""


def titles(host: Host, silent_s: float) -> dict[str, str]:
    """What a doctor says of the titles to whom so many seconds without running are long."""
    words = [str(silent_s), "--config", str(host.agent.config_file), "--control", str(host.agent.control)]
    argv = [sys.executable, "-c", IMPATIENT, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    [found] = [finding for finding in json.loads(done.stdout)["checks"] if finding["check"] == "titles"]
    return {str(key): str(value) for key, value in found.items()}


def test_a_worker_that_has_not_run_for_long_is_told(host: Host) -> None:
    assert all(workers._last_ran(Path(f"/proc/{pid}")) for pid in host.pids), "this kernel does not tell it"

    def asleep() -> dict[str, str] | None:
        # One that only sleeps stays where it is, but the kernel may take it off its processor's queue late.
        found = titles(host, 0.2)
        return found if found["what"].startswith("3 workers have not run for up to ") else None

    found = until(asleep, "all three have slept for long", DEADLINE_S)
    assert found is not None
    assert found["state"] == "warn"
    assert {int(pid) for pid in found["what"].partition("pids ")[2].split(", ")} == set(host.pids)
    found = titles(host, workers.SILENT_S)
    assert (found["state"], found["what"].partition(" within ")[0]) == ("ok", "all 3 workers ran")


def test_a_title_that_is_written_moves_on_when_its_worker_last_ran(host: Host) -> None:
    ran = workers._last_ran(Path(f"/proc/{host.pids[0]}"))
    assert ran is not None, "this kernel does not tell when a process last ran"
    until(lambda: _now() > ran + 0.1, "a moment on", DEADLINE_S)
    assert workers._last_ran(Path(f"/proc/{host.pids[0]}")) == ran

    def moved_on() -> bool:
        # Each processor has a clock of its own, less the time that was stolen from it: one may lag behind another.
        host.farm.retitle({host.pids[0]: sidekiq_title(1)})
        return (workers._last_ran(Path(f"/proc/{host.pids[0]}")) or 0.0) > ran

    until(moved_on, "it moves on", DEADLINE_S)


def _now() -> float:
    return workers._last_ran(Path("/proc/self")) or 0.0


@pytest.mark.root("a /proc is mounted")
def test_a_real_hidepid_is_named_and_the_remedy_is_its_group_or_the_mount(host: Host) -> None:
    for options, remedy in (("hidepid=2", "mount it with gid=GROUP"), ("hidepid=2,gid=4", "run the agent in group 4")):
        told = as_nobody(host, options)
        found = {finding["check"]: finding for finding in told["checks"]}
        assert (told["ok"], found["processes"]["state"]) == (False, "fail")
        assert "/proc is mounted with hidepid=" in found["processes"]["what"]
        assert remedy in found["processes"]["remedy"]
        assert "workers" not in found, "what cannot be seen is not told as none"


AS_NOBODY = """
import contextlib, io, os, subprocess, sys
from agent import cli
# Once as root: what it imports need not be readable for everyone.
with contextlib.redirect_stdout(io.StringIO()):
    cli.main(["doctor", *sys.argv[2:]])
subprocess.run(["mount", "-t", "proc", "-o", sys.argv[1], "proc", "/proc"], check=True)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
cli.main(["doctor", "--json", *sys.argv[2:]])
"""


def as_nobody(host: Host, options: str) -> Any:
    """What the doctor tells a user without rights, where /proc is mounted so."""
    words = ["--config", str(host.agent.config_file), "--control", str(host.agent.control)]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", AS_NOBODY, options, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.root("another user is played")
def test_a_user_without_rights_is_told_what_can_be_told_and_who_refused_the_rest(host: Host) -> None:
    with host.agent:
        host.agent.ask()
        told = as_nobody(host, "hidepid=2")
    found = {finding["check"]: finding for finding in told["checks"]}
    assert "refused: uid 65534 " in found["agent"]["what"]
    assert found["port"]["state"] == "warn"
