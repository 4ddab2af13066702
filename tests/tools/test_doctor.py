"""`busyweight doctor`: what each check reports, in trees and with a running agent."""

import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from agent.tools import client
from agent.tools.doctor import agent as agent_checks
from agent.tools.doctor import systemd_unit, visibility
from tests.farm import sidekiq_title
from tests.prompt import Run
from tests.real.parts import free_port
from tests.tools.asking import DEADLINE_S, Doctor, Impostor, write
from tests.tree import TreeAgent


def test_beside_a_well_agent_no_check_fails(agent: TreeAgent, doctor: Doctor) -> None:
    with agent:
        found = doctor()
    assert (found.code, found.ok) == (0, True), found.checks
    assert "24 of sidekiq, 6 with a job" in found.said("workers")
    assert "the agent counted 24 by sweep" in found.said("workers")
    assert found.said("port").startswith(f"ok 127.0.0.1:{agent.port} answers 'up 75% #6/24 busy', which matches status")
    assert found.said("capacity").startswith("ok 24, as configured")
    assert "sweep; not ebpf: " in found.said("discovery")
    assert found.said("readers").startswith("ok none hung")
    assert found.states("answer") == found.states("agent") == found.states("orders") == ["ok"]


def test_without_an_agent_the_port_fails_and_all_else_is_told_all_the_same(agent: TreeAgent, doctor: Doctor) -> None:
    found = doctor()
    assert (found.code, found.ok) == (1, False)
    assert [c["check"] for c in found.checks if c["state"] == "fail"] == ["port"]
    assert f"nothing listens on 127.0.0.1:{agent.port} -> start it" in found.said("port")
    assert f"no agent at {agent.control}" in found.said("agent")
    assert "'up 75% #6/24 busy'" in found.said("answer")


def test_every_line_for_people_begins_with_its_state_and_names_the_remedy(here: Run, agent: TreeAgent) -> None:
    done = here("doctor", "--config", agent.config_file, "--control", agent.control)
    lines = done.out.decode().splitlines()
    assert done.code == 1
    assert {line[:6] for line in lines} == {"ok    ", "warn  ", "fail  "}
    assert all(" -> " in line for line in lines if line.startswith("fail"))


def test_a_wrong_configuration_is_exit_code_2_and_a_missing_procfs_a_fail(
    here: Run, agent: TreeAgent, doctor: Doctor
) -> None:
    agent.config_file.write_text('[scan]\nprocfs = "/none"\n')
    found = doctor()
    assert (found.code, found.said("processes")) == (
        1,
        "fail procfs root /none: no such file or directory -> set scan.procfs to a mounted procfs",
    )
    agent.config_file.write_text("listen = []\n")
    assert here("doctor", "--config", agent.config_file).code == 2


def test_hidden_processes_are_a_fail_for_the_agent(agent: TreeAgent, doctor: Doctor) -> None:
    agent.tree.hide()
    assert "fail this user cannot see them" in doctor().said("processes")
    with agent:
        found = doctor()
    assert "fail the agent cannot see them" in found.said("processes")
    assert "cannot see processes" in found.said("answer")
    assert (found.states("answer"), found.code) == (["fail"], 1)


def test_an_agent_that_sees_more_than_the_doctor_is_no_fail(agent: TreeAgent, doctor: Doctor) -> None:
    agent.config_file.write_text(agent.config_file.read_text().replace("[scan]", '[scan]\nfresh_for = "1h"'))
    with agent:
        agent.tree.hide()
        found = doctor()
    assert found.states("processes") == ["warn"]
    assert "run doctor as root" in found.said("processes")
    assert "the agent counted 24 by sweep" in found.said("workers")


def test_no_worker_on_a_visible_host_is_a_warning(tmp_path: Path, agent: TreeAgent, doctor: Doctor) -> None:
    agent.tree.remove(*range(100, 124))
    write(agent, '[workers]\nusers = ["root"]')
    found = doctor()
    assert found.states("workers") == ["warn"]
    assert "none of sidekiq found" in found.said("workers") and "check preset, users" in found.said("workers")


def test_titles_without_a_count_and_processes_that_must_not_be_read_are_warnings(
    agent: TreeAgent, doctor: Doctor
) -> None:
    agent.tree.add(200, b"sidekiq 7.0.0 cut [1 o")
    agent.tree.forbid(agent.tree.add(201, b""))
    said = doctor().said("workers")
    assert "warn 1 titles have no valid count: pids 200" in said
    assert "warn 1 processes that may be workers cannot be read" in said


def test_a_name_that_the_comm_filter_hides_is_a_fail_with_the_list_to_set(agent: TreeAgent, doctor: Doctor) -> None:
    write(agent, "[pools.other]\ncomm = ['nobody']\n")
    agent.tree.add(300, sidekiq_title(1), comm="worker*main")
    agent.tree.add(301, sidekiq_title(2), comm="processor", ppid=100)  # forked by a job
    said = doctor().said("comm filter").splitlines()
    assert said[0] == (
        'fail hides workers called worker*main (pid 300): "sidekiq 7.3.0 shop [1 of 10 busy]" -> '
        'set workers.comm = ["sidekiq*", "ruby*", "bundle*", "worker?main"]'
    )
    assert {line.partition(":")[0] for line in said[1:]} == {"fail pool other"}
    write(agent, '[workers]\ncomm = ["sidekiq*", "ruby*", "bundle*", "worker?main"]')
    assert doctor().said("comm filter").startswith("ok hides no worker")


@pytest.mark.parametrize("contained", ["a container's marker file", None])
def test_cores_are_a_warning_in_a_container_and_a_number_is_not(
    agent: TreeAgent, doctor: Doctor, monkeypatch: pytest.MonkeyPatch, contained: str | None
) -> None:
    monkeypatch.setattr("agent.sampling.host.in_container", lambda: contained)
    write(agent, "[pools.mail]\ncapacity = 3\n[pools.slots]\ncount = 'threads'\ncapacity = 'slots'")
    found = doctor()
    assert found.states("capacity") == ["warn" if contained else "ok", "ok", "ok"]
    assert "pool mail: 3, as configured" in found.said("capacity")
    assert "pool slots: all threads" in found.said("capacity")
    assert (contained or "none") in found.said("container")


def test_a_discovery_asked_for_by_name_and_not_to_be_had_is_a_warning(agent: TreeAgent, doctor: Doctor) -> None:
    agent.config_file.write_text(f'[scan]\nprocfs = "{agent.tree}"\ndiscovery = "cgroup"\n')
    found = doctor()
    assert found.said("discovery").startswith("warn sweep, for the user running doctor; not cgroup: ")


def test_a_reader_that_hangs_is_a_warning_with_the_process_that_it_hangs_in(agent: TreeAgent, doctor: Doctor) -> None:
    with agent:
        agent.tree.add_hanging(200)
        agent.until(lambda: (agent.ask(), "1 readers hang" in agent.order("status"))[1], "hanging", DEADLINE_S)
        said = doctor().said("readers")
        assert said.startswith("warn 1 hung, ")
        agent.tree.heal(200, b"irb")


def test_an_order_in_force_is_a_warning_and_a_failed_reload_a_fail(agent: TreeAgent, doctor: Doctor) -> None:
    with agent:
        agent.order("drain", "--reason", "kernel update")
        good = agent.config_file.read_text()
        agent.config_file.write_text("speed = 1\n")
        agent.send(signal.SIGHUP)
        agent.until(lambda: "RELOAD FAILED" in agent.order("status"), "reloaded", DEADLINE_S)
        agent.config_file.write_text(good)
        found = doctor()
    assert found.states("orders") == ["warn"]
    assert "kernel update" in found.said("orders") and "busyweight ready" in found.said("orders")
    assert "fail the last reload failed" in found.said("configuration")


def test_orders_that_are_in_memory_only_are_a_warning_beside_the_one_in_force(agent: TreeAgent, doctor: Doctor) -> None:
    (agent.home / "state").symlink_to("nowhere")
    with agent:
        memory_only, in_doubt = doctor().said("orders").splitlines()
        assert memory_only.startswith(f"warn {agent.home / 'state'}: file exists: overrides are in memory only")
        assert in_doubt.endswith(
            "start may be lost -> if HAProxy still shows an old drain or maint, run: busyweight ready"
        )
        agent.order("drain", "--reason", "kernel update")
        said = doctor().said("orders")
    assert "kernel update" in said and "overrides are in memory only" in said


def test_a_state_file_set_aside_is_a_warning_with_the_way_out_until_it_was_taken(
    agent: TreeAgent, doctor: Doctor
) -> None:
    agent.write_config(f'[reply]\nrelease_for = "1ms"\n[scan]\nprocfs = "{agent.tree}"\n')
    (agent.home / "state").mkdir()
    (agent.home / "state/override.json").write_text("{")
    with agent:
        found = doctor()
        assert found.states("orders") == ["warn"]
        assert "override.json: not valid JSON, or truncated; set aside as " in found.said("orders")
        assert found.said("orders").endswith("-> if HAProxy still shows an old drain or maint, run: busyweight ready")
        agent.order("ready")
        agent.until(lambda: "finished sending ready" in agent.log_text(), "done with ready", DEADLINE_S)
        assert doctor().said("orders").endswith("starting without an override -> ")


def test_a_status_of_another_version_is_a_warning_and_no_traceback(
    agent: TreeAgent, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = client.ask

    def older(path: Path, command: str, **words: object) -> dict[str, Any]:
        answer = ask(path, command, **words)
        if command == "status":
            del answer["status"]["scanner"], answer["status"]["state_file"]
            answer["status"]["agent"]["version"] = "0.0.1"
        return answer

    monkeypatch.setattr(client, "ask", older)
    with agent:
        found = doctor()
    assert found.code == 0
    assert "but" in found.said("agent") and "systemctl restart busyweight" in found.said("agent")
    assert found.said("readers").startswith("warn the status of the agent, version 0.0.1, lacks 'scanner'")
    assert "restart the agent" in found.said("readers")


def test_an_incomplete_status_of_the_same_version(
    agent: TreeAgent, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported as a bug, not as a reason to restart the agent."""
    ask = client.ask

    def mute(path: Path, command: str, **words: object) -> dict[str, Any]:
        answer = ask(path, command, **words)
        if command == "status":
            del answer["status"]["scanner"]
        return answer

    monkeypatch.setattr(client, "ask", mute)
    with agent:
        said = doctor().said("readers")
    assert "the agent's status lacks 'scanner', though agent and doctor are both" in said
    assert "restart" not in said and "doctor is" not in said


def test_a_doctor_of_another_configuration_than_the_agents_says_so(
    tmp_path: Path, agent: TreeAgent, doctor: Doctor
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(agent.config_file.read_text())
    with agent:
        said = doctor("--config", other).said("configuration")
    assert f"warn the agent uses {agent.config_file}, but doctor checks {other}" in said


def test_settings_that_make_every_answer_late_are_told(agent: TreeAgent, doctor: Doctor) -> None:
    agent.config_file.write_text(f'[scan]\nprocfs = "{agent.tree}"\ngive_up_after = "100ms"\n')
    assert "warn scan.give_up_after = 100ms" in doctor().said("configuration")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"up 1% #x\n", "answers 'up 1% #x', but without the agent's status"),
        (None, "closes without a reply -> is this host's own address in allow?"),
    ],
)
def test_a_port_without_a_status_to_compare_with_is_a_warning(
    agent: TreeAgent, doctor: Doctor, answer: bytes | None, expected: str
) -> None:
    with Impostor(answer) as impostor:
        agent.config_file.write_text(f'listen = ["127.0.0.1:{impostor.port}"]\n[scan]\nprocfs = "{agent.tree}"\n')
        found = doctor()
    assert found.said("port").startswith(f"warn 127.0.0.1:{impostor.port} {expected}")


def test_another_line_than_the_status_is_a_fail(agent: TreeAgent, doctor: Doctor, monkeypatch: Any) -> None:
    monkeypatch.setattr(agent_checks, "_poll", lambda _: "up 3% #other\n")
    with agent:
        found = doctor()
    assert "fail" in found.states("port") and "another agent uses the port" in found.said("port")


def test_a_port_that_does_not_answer_is_a_fail(agent: TreeAgent, doctor: Doctor, monkeypatch: Any) -> None:
    monkeypatch.setattr(agent_checks, "POLL_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        agent.config_file.write_text(
            f'listen = ["127.0.0.1:{silent.getsockname()[1]}"]\n[scan]\nprocfs = "{agent.tree}"\n'
        )
        assert "does not answer within" in doctor().said("port")


def test_ports_that_listen_everywhere_are_asked_on_loopback(agent: TreeAgent, doctor: Doctor) -> None:
    agent.config_file.write_text(
        f'listen = ["0.0.0.0:{agent.port}", "[::1]:{free_port()}"]\n[scan]\nprocfs = "{agent.tree}"\n'
    )
    with agent:
        assert doctor().states("port") == ["ok", "ok"]


# What cannot be had here, by its words.

HOST = "22 1 0:20 / /proc rw,relatime shared:1 - proc proc rw\n"


@pytest.mark.parametrize(
    ("mountinfo", "path", "hides"),
    [
        (HOST, "/proc", ""),
        (HOST.replace(" rw\n", " rw,hidepid=invisible,gid=7\n"), "/proc", "hidepid=invisible"),
        (HOST.replace(" rw\n", " rw,hidepid=off\n"), "/proc", ""),
        (HOST + HOST.replace(" rw\n", " rw,hidepid=2\n"), "/proc/sys", "hidepid=2"),
        ("1 1 0:1 / / rw - ext4 /dev/sda rw\n" + HOST.replace(" rw\n", " rw,hidepid=2\n"), "/procfs", ""),
    ],
)
def test_the_mount_on_top_tells_whether_processes_are_hidden(mountinfo: str, path: str, hides: str) -> None:
    assert visibility.hiding(visibility.mount_of(path, mountinfo)) == hides


UNIT = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "UnitFileState": "enabled",
    "FragmentPath": "/lib/systemd/system/busyweight.service",
    "DropInPaths": "/etc/systemd/system/busyweight.service.d/ebpf.conf",
    "NeedDaemonReload": "no",
    "NRestarts": "3",
    "MainPID": "7",
    "ProtectProc": "default",
    "ProcSubset": "all",
    "PrivateUsers": "no",
}


@pytest.mark.parametrize(
    ("changed", "states", "words"),
    [
        ({}, ["ok"], "ebpf.conf"),
        ({"LoadState": "not-found"}, ["warn"], "not installed"),
        ({"ActiveState": "failed"}, ["fail"], "journalctl"),
        ({"ActiveState": "inactive"}, ["fail"], "systemctl enable --now"),
        ({"UnitFileState": "disabled"}, ["warn"], "not start at boot"),
        ({"MainPID": "8"}, ["warn"], "started by hand"),
        ({"NeedDaemonReload": "yes"}, ["ok", "warn"], "daemon-reload"),
        ({"ProtectProc": "invisible"}, ["ok", "warn"], "ProtectProc=default"),
        ({"PrivateUsers": "yes"}, ["ok", "warn"], "65534"),
    ],
    ids=str,
)
def test_a_unit_is_judged_by_its_properties(changed: dict[str, str], states: list[str], words: str) -> None:
    found = list(systemd_unit.judge(UNIT | changed, 7))
    assert [finding.state for finding in found] == states
    assert words in str(found[-1])


def test_where_systemd_does_not_run_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd_unit, "BOOTED", tmp_path / "none")
    [finding] = systemd_unit.unit(None)  # type: ignore[arg-type]
    assert (finding.state, finding.check) == ("ok", "systemd")
