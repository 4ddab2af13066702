"""The command line: arguments in; output and exit code out: 0 success, 1 a problem, 2 usage or configuration."""

import errno
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agent import cli
from agent._scan import __version__
from agent.config import toml
from tests.farm import sidekiq_title
from tests.prompt import COMMAND, Run, run
from tests.real.original import answer

from .tree import Tree


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "busyweight.toml"


@pytest.mark.parametrize("program", [(COMMAND,), (sys.executable, "-m", "agent")])
def test_the_version_is_told_by_both_names_of_the_command(program: tuple[object, ...]) -> None:
    done = run("--version", program=program)
    assert (done.code, done.out) == (0, f"busyweight {__version__}\n".encode())


def test_help_lists_every_command_that_works_and_each_has_a_help_of_its_own(here: Run) -> None:
    listed = here("--help")
    assert listed.code == 0
    [commands] = [action for action in cli.parser()._actions if isinstance(action.choices, dict)]
    assert isinstance(commands.choices, dict)
    for command in commands.choices:
        assert f"    {command} ".encode() in listed.out
        assert here(command, "--help").code == 0
        assert here(command, "--no-such-option").code == 2


@pytest.mark.parametrize(
    "words",
    [[], ["no-such-command"], ["serve", "--listen", "localhost:1"], ["check", "extra"], ["config", "--config"]],
)
def test_wrong_words_are_exit_code_2_and_say_what_is_right(here: Run, words: list[str]) -> None:
    done = here(*words)
    assert (done.code, done.out) == (2, b"")
    assert "usage: busyweight" in done.err


@pytest.mark.parametrize("health", ["up", "none"])
def test_check_prints_the_exact_reply_for_every_busy_count(here: Run, tree: Tree, file: Path, health: str) -> None:
    file.write_text(f'[weight]\ncapacity = 24\n[reply]\nhealth = "{health}"\n')
    for busy in range(31):
        if busy:
            tree.add(100 + busy, sidekiq_title(1))
        share = answer(busy, 24)
        expected = share if health == "none" else b"up %s #%d/24 busy\n" % (share.strip(), busy)
        done = here("check", "--config", file, "--procfs", tree)
        assert (done.code, done.out, done.err) == (0, expected, "")


def test_check_of_a_hidden_proc_is_unknown_with_exit_code_1(tree: Tree, file: Path) -> None:
    file.write_text("")
    tree.hide()
    done = run("check", "--config", file, "--procfs", tree)
    assert (done.code, done.out) == (1, b"up #cannot see processes\n")
    assert done.err == "busyweight: unknown: cannot see processes\n"


def test_check_without_a_procfs_root_is_one_line_with_exit_code_1(here: Run, file: Path) -> None:
    file.write_text("")
    done = here("check", "--config", file, "--procfs", "/none")
    assert (done.code, done.out, done.err) == (1, b"", "busyweight: procfs root /none: no such file or directory\n")


def test_workers_lists_what_was_counted_and_a_title_cannot_write_on_the_terminal(
    here: Run, tree: Tree, file: Path
) -> None:
    file.write_text("[weight]\ncapacity = 4\n[pools.rq]\npreset = 'rq'\n")
    tree.add(100, b"sidekiq 7.0.0 \x1b[2J\ncaf\xe9 \xc3\xa9 [1 of 5 busy] stopping")
    tree.add(101, sidekiq_title(3), ppid=100)
    tree.add(102, b"sidekiq 7.0.0 cut [1 o")
    tree.add(103, b"rq:worker:x: Processing f from q since 1", comm="rq:worker:x", uid=2**31)
    done = here("check", "--workers", "--config", file, "--procfs", tree)
    reply, head, *rows = done.out.decode().splitlines()
    assert (done.code, reply, head.split()) == (0, "up 75% #1/4 busy", ["PID", "USER", "READING", "TITLE"])
    assert rows[0].split() == [
        "100", "root", "1", "of", "5", "busy,", "stopping",
        "sidekiq", "7.0.0", r"\x1b[2J\ncaf\xe9", "é", "[1", "of", "5", "busy]", "stopping",
    ]  # fmt: skip
    assert "3 of 10 busy (forked copy, not counted)" in rows[1]
    assert rows[2].split()[:3] == ["102", "root", "unparsable"]
    assert f"{2**31}  rq: 1 of 1 busy" in rows[3]


def test_json_has_all_that_was_found(here: Run, tree: Tree, file: Path) -> None:
    file.write_text("[weight]\ncapacity = 4\n[pools.rq]\npreset = 'rq'\n")
    tree.add(100, sidekiq_title(1))
    tree.add(101, b"sidekiq 7.0.0 cut [1 o", ppid=7)
    tree.forbid(tree.add(102, b""))
    done = here("check", "--json", "--config", file, "--procfs", tree)
    found = json.loads(done.out)
    assert (done.code, found["reply"], found["weight"], found["reason"]) == (0, "up 75% #1/4 busy\n", 75, "1/4 busy")
    assert (found["known"], found["visible"], found["unreadable"], found["discovery"]) == (True, True, 1, "sweep")
    default, rq = found["pools"]["default"], found["pools"]["rq"]
    assert (default["workers"], default["unparsable"], default["total_threads"]) == (1, 1, 10)
    assert (rq["workers"], rq["reply"]) == (0, "up 100% #0/4 busy\n")
    assert [(w["pid"], w["user"], w["readings"]) for w in found["workers"]] == [
        (100, "root", {"default": [1, 10, False]}),
        (101, "root", {"default": "unparsable"}),
    ]


def test_json_of_an_unknown_host_is_json_still(here: Run, tree: Tree, file: Path) -> None:
    file.write_text("")
    tree.hide()
    done = here("check", "--json", "--config", file, "--procfs", tree)
    assert (done.code, json.loads(done.out)["weight"], json.loads(done.out)["known"]) == (1, None, False)


def test_config_prints_what_is_read_back_to_the_same_and_warnings_beside_it(here: Run, file: Path) -> None:
    file.write_text('listen = ["[::]:7001"]\n[scan]\ngive_up_after = "100ms"\n[pools.mail]\ncapacity = 3\n')
    done = here("config", "--config", file)
    assert done.code == 0
    assert toml.parse(done.out.decode(), "") == toml.parse(file.read_text(), "")
    assert done.err.startswith("warning: scan.give_up_after = 100ms")


def test_without_a_file_the_defaults_are_effective(here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.config.file.DEFAULT_FILE", Path("/none/busyweight.toml"))
    done = here("config")
    assert (done.code, tomllib.loads(done.out.decode())["listen"]) == (0, ["127.0.0.1:5001"])


@pytest.mark.parametrize("command", ["serve", "check", "config"])
def test_a_wrong_configuration_is_every_fault_a_line_and_exit_code_2(here: Run, file: Path, command: str) -> None:
    file.write_text("listen = []\n[scan]\nspeed = 1\n[workers]\npreset = 'puma'\n")
    done = here(command, "--config", file)
    assert (done.code, done.out) == (2, b"")
    faults = sorted(line.split(": ")[:2] for line in done.err.splitlines())
    assert faults == [[str(file), key] for key in ("listen", "scan.speed", "workers.preset")]


def test_a_configuration_that_cannot_be_read_is_one_line_and_exit_code_2(here: Run, file: Path, tmp_path: Path) -> None:
    assert here("config", "--config", file).err == f"{file}: no such file\n"
    file.write_bytes(b"# caf\xe9")
    assert here("config", "--config", file).err == f"{file}: not UTF-8 at byte 5\n"
    done = here("config", "--config", tmp_path)
    assert (done.code, done.err) == (2, f"{tmp_path}: cannot be read: is a directory\n")


TELLS_OF_FORKS = """
import os, sys
from agent import cli
os.register_at_fork(before=lambda: print("forked", file=sys.stderr))
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", ["check", "doctor"])
def test_a_command_forks_never_for_a_scan_leaves_threads(tree: Tree, file: Path, command: str) -> None:
    file.write_text(f'[scan]\nprocfs = "{tree}"\n')
    tree.workers(busy=3)
    done = run(command, "--config", file, program=(sys.executable, "-c", TELLS_OF_FORKS))
    assert done.err == ""


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [(["config"], ""), (["check"], ""), (["check", "--workers"], "1"), (["doctor"], ""), (["--version"], "")],
)
def test_an_output_that_cannot_be_written_is_one_line_with_exit_code_1(
    tree: Tree, file: Path, words: list[str], unbuffered: str
) -> None:
    file.write_text(f'[scan]\nprocfs = "{tree}"\n')
    argv: list[Path | str] = [COMMAND, *words, *([] if words == ["--version"] else ["--config", str(file)])]
    environ = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False, env=environ)
    assert (done.returncode, done.stderr) == (1, b"busyweight: cannot write the output: no space left on device\n")


def test_faults_that_nobody_can_be_told_of_keep_their_exit_code(file: Path) -> None:
    file.write_text("bogus = 1\nmore = 2\n")
    commands = (f"config --config {file}", f"haproxy lint {file}", f"status --control {file}")
    with Path("/dev/full").open("wb") as full:
        dones = [subprocess.run([COMMAND, *c.split()], stderr=full, timeout=60, check=False) for c in commands]
    assert [done.returncode for done in dones] == [2, 2, 1]


def test_an_output_that_is_closed_takes_no_words_and_says_nothing(tree: Tree, file: Path) -> None:
    file.write_text(f'[scan]\nprocfs = "{tree}"\n')
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", COMMAND, "config", "--config", file], stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_error_that_is_not_the_outputs_is_not_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: object) -> int:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")

    monkeypatch.setattr("agent.actions.config", refuses)
    with pytest.raises(ConnectionRefusedError):
        cli.main(["config"])


def test_a_reader_that_goes_away_ends_a_command_without_a_word(tree: Tree, file: Path) -> None:
    file.write_text("")
    tree.workers(busy=3)
    read_end, write_end = os.pipe()
    os.close(read_end)
    argv: list[Path | str] = [COMMAND, "check", "--workers", "--config", file, "--procfs", tree.root]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(argv, stdout=write_end, stderr=subprocess.PIPE, timeout=60, check=False, env=buffered)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, b"")
