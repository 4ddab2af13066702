"""The state file: problems with it or its disk are reported, and the agent continues."""

import asyncio
import json
import os
import resource
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from agent.operate import state
from agent.operate.override import Override, PersistedOverride
from agent.operate.state import NAME, StateFile
from tests.scarce import no_thread

RECORD = PersistedOverride(Override("drain", None, "alice", "kernel update", 1.8e9, 1.8e9 + 60), ready_owed=False)


def save(file: StateFile, record: PersistedOverride) -> str | None:
    asyncio.run(file.save(record))
    return file.write_error


def saved(directory: Path) -> PersistedOverride:
    return StateFile(directory).load()


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    assert save(StateFile(tmp_path), RECORD) is None
    assert saved(tmp_path) == RECORD


def test_the_directory_is_made_and_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    assert save(StateFile(directory), RECORD) is None
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / NAME).stat().st_mode & 0o777 == 0o600


def test_nothing_to_keep_leaves_no_file(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    save(file, RECORD)
    assert save(file, PersistedOverride()) is None
    assert list(tmp_path.iterdir()) == []
    assert saved(tmp_path) == PersistedOverride()


def valid() -> bytes:
    return json.dumps(
        {
            "version": 1,
            "ready_owed": True,
            "override": {"kind": "maint", "weight": None, "who": "bob", "why": "", "since": 1.8e9, "until": None},
        }
    ).encode()


def test_the_format_is_read_as_documented(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(valid())
    assert saved(tmp_path) == PersistedOverride(Override("maint", None, "bob", "", 1.8e9, None), ready_owed=True)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (valid()[:40], "not valid JSON, or truncated"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 60_000, "not valid JSON"),
        (b"[]", "it has no version"),
        (valid().replace(b'"version": 1', b'"version": 2'), "not version 1"),
        (valid().replace(b'"maint"', b'"havoc"'), "not a valid override record"),
        (valid().replace(b"1800000000.0", b"NaN"), "not a valid override record"),
        (valid() + b" " * state.SIZE_MAX, "larger than"),
    ],
)
def test_a_damaged_file_is_set_aside_and_the_agent_starts_clean(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / NAME).write_bytes(content)
    file = StateFile(tmp_path)
    assert file.load() == PersistedOverride()
    assert file.load_warning is not None
    assert why in file.load_warning
    damaged = tmp_path / "override.damaged"
    assert f"set aside as {damaged}" in file.load_warning
    assert damaged.read_bytes() == content
    assert StateFile(tmp_path).load() == PersistedOverride()
    assert save(file, RECORD) is None


def test_a_file_of_somebody_else_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAME).write_bytes(valid())
    if os.geteuid() == 0:
        os.chown(tmp_path / NAME, 65534, 65534)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 65533)
    file = StateFile(tmp_path)
    assert file.load() == PersistedOverride()
    assert file.load_warning is not None
    assert "owned by uid" in file.load_warning
    assert not (tmp_path / NAME).exists()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_what_is_no_file_neither_blocks_nor_leads_elsewhere(tmp_path: Path, kind: str) -> None:
    path = tmp_path / NAME
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(valid())
    if kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    file = StateFile(tmp_path)
    assert file.load() == PersistedOverride()
    assert file.load_warning is not None
    assert save(file, RECORD) is None
    assert saved(tmp_path) == RECORD
    assert elsewhere.read_bytes() == valid()


@pytest.mark.parametrize("directory", ["/proc/busyweight", "{tmp}/file/state"])
def test_a_directory_that_cannot_be_is_told(tmp_path: Path, directory: str) -> None:
    (tmp_path / "file").touch()
    file = StateFile(Path(directory.format(tmp=tmp_path)))
    with pytest.raises(OSError, match=r".+"):
        file.prepare()
    write_error = save(file, RECORD)
    assert write_error is not None
    assert write_error.startswith(f"{file.directory}: ")


def test_a_disk_that_takes_no_more_is_told_and_keeps_what_it_has(tmp_path: Path) -> None:
    save(StateFile(tmp_path), RECORD)
    newer = PersistedOverride(Override("maint", None, "bob", "", 1.8e9, None))
    child = os.fork()
    if child == 0:
        # A limit on the size of files is a full disk to this one process, and to root, too.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))
        file = StateFile(tmp_path)
        told = save(file, newer) == f"{tmp_path}: file too large"
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        kept = saved(tmp_path) == RECORD
        well_again = save(file, newer) is None
        os._exit(0 if told and kept and well_again else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert saved(tmp_path) == newer
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("newest", [RECORD, PersistedOverride()])
def test_an_unresponsive_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest: PersistedOverride) -> None:
    """It is reported, and when it is back it has the newest record."""
    file = StateFile(tmp_path)
    back = threading.Event()
    fsync = os.fsync

    def hang(fd: int) -> None:
        assert back.wait(60)
        fsync(fd)

    monkeypatch.setattr(state, "PATIENCE_S", 0.001)
    monkeypatch.setattr(os, "fsync", hang)

    async def orders() -> None:
        threads = set(threading.enumerate())
        for n in range(100):
            await file.save(replace(RECORD, ready_owed=n % 2 == 0))
        await file.save(newest)
        assert file.write_error == f"{tmp_path}: the disk has not responded for 0.001 s"
        assert file.recorded is None
        assert len(set(threading.enumerate()) - threads) == 1
        back.set()
        assert file._writer is not None
        await file._writer
        assert file.write_error is None

    asyncio.run(orders())
    assert file.recorded == newest
    assert saved(tmp_path) == newest


def test_where_no_thread_is_to_be_had_that_is_the_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = StateFile(tmp_path)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    assert save(file, RECORD) == f"{tmp_path}: cannot start a thread"
    monkeypatch.undo()
    assert save(file, RECORD) is None
    assert saved(tmp_path) == RECORD


def test_where_the_directory_is_in_trouble_already_a_file_in_it_is_no_second_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    file = StateFile(tmp_path / "file")
    file.write_error = "not a directory"
    assert file.load() == PersistedOverride()
    assert file.load_warning is None
