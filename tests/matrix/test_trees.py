"""The trees themselves: what they hold, and that running something in one leaves nothing and changes nothing."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.parts import cmdline, until

from . import trees
from .trees import RELEASES, Tree, TreeError

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1200)]  # the first time they are made

# From which major version to which: a tree with others would not try what this matrix is for.
EXPECTED = {"sidekiq": ("6", "7", "8"), "haproxy": ("2.6", "3.0", "3.2"), "python": ("3.11", "3.13", "3.14")}


def test_every_release_has_its_own_versions(tree: Tree) -> None:
    for name, versions in EXPECTED.items():
        expected = versions[RELEASES.index(tree.release)]
        assert tree.versions()[name].startswith(f"{expected}."), name


def test_only_sid_has_another_haproxy_which_is_experimentals(tree: Tree) -> None:
    _own, *others = tree.haproxies()
    assert [haproxy.version.rpartition(".")[0] for haproxy in others] == (["3.4"] if tree.release == "sid" else [])


def test_program_is_seen_from_outside_under_the_pid_that_started_it(tree: Tree) -> None:
    with tree.popen(["python3", "-c", "input()"], stdin=subprocess.PIPE) as program:
        until(lambda: cmdline(program.pid).startswith(b"python3\0-c\0"), "it is Python", 10)
        assert Path(f"/proc/{program.pid}/root/etc/debian_version").read_text().strip() == tree.versions()["debian"]
        program.communicate(b"\n")
    assert program.returncode == 0


def test_what_it_writes_is_its_own_but_for_what_is_shared(tree: Tree, tmp_path: Path) -> None:
    tree.run(["sh", "-c", f"echo inside | tee {tmp_path}/said >/etc/busyweight-was-here"])
    assert (tmp_path / "said").read_text() == "inside\n"
    assert not (tree.path / "etc/busyweight-was-here").exists()
    assert not Path("/etc/busyweight-was-here").exists()


def test_loopback_is_shared_and_nothing_stays_mounted(tree: Tree) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        calls = f"import socket; socket.create_connection(('127.0.0.1', {listener.getsockname()[1]})).sendall(b'hello')"
        tree.run(["python3", "-c", calls])
        with listener.accept()[0] as connection:
            assert connection.recv(5) == b"hello"
    assert str(tree.path) not in Path("/proc/self/mounts").read_text()


def test_failing_program_is_reported_with_what_it_said(tree: Tree) -> None:
    with pytest.raises(TreeError, match="ended with 3\nout\nerr"):
        tree.run(["sh", "-c", "echo out; echo err >&2; exit 3"])


def test_environment_is_plain_but_for_what_is_given(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSYWEIGHT_OUTSIDE", "1")
    said = tree.run(["env"], env={"GIVEN": "a b"}, cwd="/var").stdout.splitlines()
    assert "GIVEN=a b" in said
    assert not [line for line in said if line.startswith("BUSYWEIGHT_")]


@pytest.fixture
def made_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, whose trees are made by a script that a test writes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(trees, "_MAKE", tmp_path / "make-tree")
    yield tmp_path
    # Who asks next, as the support page does at the end, gets the real trees again.
    trees.get.cache_clear()


def makes(place: Path, script: str) -> None:
    make = place / "make-tree"
    make.write_text(f"#!/bin/sh\n{script}\n")
    make.chmod(0o755)
    trees.get.cache_clear()


def kept(place: Path) -> list[str]:
    return sorted(tree.name for tree in (place / "busyweight/trees").iterdir() if tree.is_dir())


def test_tree_is_made_once(made_elsewhere: Path) -> None:
    makes(made_elsewhere, 'mkdir "$2"')
    first = trees.get("sid")
    trees.get.cache_clear()
    assert trees.get("sid") == first
    assert kept(made_elsewhere) == ["mounted", first.path.name]


def test_tree_that_cannot_be_made_leaves_nothing_and_says_why(made_elsewhere: Path) -> None:
    makes(made_elsewhere, 'mkdir "$2"; echo no such mirror; exit 1')
    with pytest.raises(TreeError, match="sid cannot be made today:\nno such mirror"):
        trees.get("sid")
    assert kept(made_elsewhere) == ["mounted"]


def test_broken_sid_is_said_and_the_others_go_on(made_elsewhere: Path) -> None:
    makes(made_elsewhere, 'mkdir "$2"; [ "$1" != sid ] || { echo uninstallable; exit 1; }')
    found, reasons = trees.get_all()
    assert [tree.release for tree in found] == ["bookworm", "trixie"]
    assert "uninstallable" in reasons["sid"]


def grown_old(tree: Tree) -> Path:
    """The same tree as it will be named eight days from now."""
    kind, _, made = tree.path.name.rpartition("-")
    return tree.path.rename(tree.path.with_name(f"{kind}-{int(made) - 8 * 24 * 3600}"))


def test_tree_is_made_anew_after_a_week_and_old_ones_go_unless_they_are_in_use(made_elsewhere: Path) -> None:
    makes(made_elsewhere, 'mkdir "$2"')
    in_use = grown_old(trees.get("sid"))
    unused = in_use.with_name("sid-otherpackages-1")
    unused.mkdir()
    trees.get.cache_clear()
    anew = trees.get("sid")
    assert kept(made_elsewhere) == sorted(["mounted", in_use.name, anew.path.name])


def test_old_tree_does_where_a_new_one_cannot_be_made(made_elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    makes(made_elsewhere, '[ ! -e "$0.broken" ] || exit 1; mkdir "$2"')
    old = grown_old(trees.get("sid"))
    (made_elsewhere / "make-tree.broken").touch()
    trees.get.cache_clear()
    assert trees.get("sid").path == old
    assert "8 days ago will have to do" in capsys.readouterr().err
