"""`busyweight haproxy snippet` and `lint` on the command line: they follow the configuration, and exit codes."""

from pathlib import Path

import pytest

from agent.sampling import capacity as machine
from tests.prompt import Run

CORPUS = Path(__file__).parent / "haproxy"
FULL = CORPUS / "traps/zero_no_fallback.cfg"  # its only fault is that a full host leaves the pool
POOLS = 'listen = ["10.0.0.1:7001"]\n[weight]\nfloor = "2%"\ncapacity = 48\n[pools.mail]\n[pools.shop]\n'


@pytest.fixture(autouse=True)
def no_file_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.config.file.DEFAULT_FILE", Path("/none/busyweight.toml"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "busyweight.toml"


def test_a_snippet_follows_the_configuration(here: Run, file: Path) -> None:
    """It has the configured port, pools, floor and capacity, and the servers named on the command line."""
    file.write_text(POOLS)
    done = here("haproxy", "snippet", "--config", file, "a=192.0.2.1:80", "b=[2001:db8::1]:8080")
    text = done.out.decode()
    assert (done.code, done.err) == (0, "")
    assert text.count("agent-port 7001") == text.count('agent-send "') == 3
    assert "floor is 2%" in text
    assert text.count(" maxconn 48 agent-check ") == 3
    for words in ("server a 192.0.2.1:80", "server b [2001:db8::1]:8080", "backend mail_all_busy", "backend shop"):
        assert words in text


def test_a_snippet_without_a_configuration_is_sound_by_the_lint(here: Run, tmp_path: Path) -> None:
    done = here("haproxy", "snippet")
    (tmp_path / "haproxy.cfg").write_bytes(done.out)
    assert here("haproxy", "lint", tmp_path / "haproxy.cfg").code == 0


@pytest.mark.parametrize("capacity", ['"cores"', '"slots"\ncount = "threads"', '40\ncount = "threads"'])
def test_without_a_number_of_processes_a_snippet_takes_this_machines_cores(
    here: Run, file: Path, capacity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: (77, "made up"))
    file.write_text(f"[weight]\ncapacity = {capacity}\n")
    assert " maxconn 77 agent-check " in here("haproxy", "snippet", "--config", file).out.decode()


@pytest.mark.parametrize("server", ["web1", "a=1", "a=b c:80", "a=1.2.3.4:99999", "=1.2.3.4:80"])
def test_a_server_that_haproxy_would_not_take_is_exit_code_2_and_one_line(here: Run, server: str) -> None:
    done = here("haproxy", "snippet", server)
    assert (done.code, done.out, done.err.count("\n")) == (2, b"", 1)
    assert done.err.startswith("busyweight: server ")


def test_findings_are_exit_code_1_and_notes_alone_0(here: Run) -> None:
    done = here("haproxy", "lint", CORPUS / "traps/static_rr.cfg")
    lines = done.out.decode().splitlines()
    assert done.code == 1
    assert any(line.startswith(f"{CORPUS}/traps/static_rr.cfg:20: `balance static-rr`") for line in lines)
    noted = here("haproxy", "lint", CORPUS / "sound/debian.cfg")
    assert noted.code == 0
    assert all(": note: " in line for line in noted.out.decode().splitlines())


def test_a_configured_floor(here: Run, file: Path) -> None:
    """A floor above 0 makes the loss of all servers impossible, unless `unknown` is 0."""
    assert here("haproxy", "lint", FULL).code == 1
    file.write_text('[weight]\nfloor = "1%"\n')
    assert here("haproxy", "lint", "--config", file, FULL).code == 0
    file.write_text('[weight]\nfloor = "1%"\nunknown = "0%"\n')
    assert here("haproxy", "lint", "--config", file, FULL).code == 1
    file.write_text('[weight]\nfloor = "1%"\n[pools.mail]\nfloor = "0%"\n')
    assert here("haproxy", "lint", "--config", file, FULL).code == 1


def test_others_agent_checks_are_left_alone_unless_all_are_asked_for(here: Run, file: Path) -> None:
    file.write_text('listen = ["127.0.0.1:7001"]\n')
    assert here("haproxy", "lint", "--config", file, FULL).code == 0
    assert here("haproxy", "lint", "--config", file, "--all", FULL).code == 1


def test_health_none_is_judged_for_the_haproxy_that_is_named_or_installed(
    here: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('[reply]\nhealth = "none"\n')
    sound = CORPUS / "sound/spill.cfg"

    def code(*words: str) -> int:
        return here("haproxy", "lint", "--config", file, *words, sound).code

    assert code("--haproxy-version", "3.3.2") == 1
    assert code("--haproxy-version", "3.2") == 0
    installed = tmp_path / "haproxy"
    installed.write_text("#!/bin/sh\necho HAProxy version 3.4-dev9-1~bpo13 2026/01/01 - https://haproxy.org/\n")
    installed.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert code() == 1
    installed.write_text("#!/bin/sh\necho no such thing\nexit 1\n")
    assert code() == 0
    done = here("haproxy", "lint", "--haproxy-version", "newest", sound)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "'newest'" in done.err


def test_the_configuration_may_be_another_hosts_with_users_and_groups_unknown_here(here: Run, file: Path) -> None:
    file.write_text('[workers]\nusers = ["no-such-user-here"]\n[control]\ngroup = "no-such-group-here"\n')
    assert here("config", "--config", file).code == 2
    assert here("haproxy", "snippet", "--config", file).code == 0
    file.write_text("[workers]\nspeed = 1\n")
    assert here("haproxy", "snippet", "--config", file).code == 2


@pytest.mark.parametrize("name", ["missing.cfg", "empty", "prose.txt"])
def test_files_that_are_no_haproxy_configuration(here: Run, tmp_path: Path, name: str) -> None:
    """Exit code 2, and one line that names the file."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "prose.txt").write_text("Dear diary,\n")
    done = here("haproxy", "lint", tmp_path / name)
    assert (done.code, done.out, done.err.count("\n")) == (2, b"", 1)
    assert str(tmp_path / name) in done.err


def test_haproxy_alone_says_what_there_is(here: Run) -> None:
    assert here("haproxy").code == 2
    listed = here("haproxy", "--help")
    assert b"snippet" in listed.out and b"lint" in listed.out
