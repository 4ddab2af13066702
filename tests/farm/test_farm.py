"""The farm's processes are what they claim to be, as /proc shows them, and nothing is left behind."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.farm import Farm, FarmError, sidekiq_title


@pytest.fixture
def farm() -> Iterator[Farm]:
    with Farm() as farm:
        yield farm


def proc(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def state(pid: int) -> bytes:
    return proc(pid, "stat").rpartition(b") ")[2][:1]


def parent(pid: int) -> int:
    return int(proc(pid, "stat").rpartition(b") ")[2].split()[1])


def test_a_title_that_fits_is_padded_with_nuls_to_the_size_of_argv(farm: Farm) -> None:
    [pid] = farm.spawn(comm="ruby", title=sidekiq_title(3))
    assert proc(pid, "comm") == b"ruby\n"
    assert proc(pid, "cmdline") == sidekiq_title(3).ljust(128, b"\0")


def test_a_title_longer_than_argv_reads_as_one_string_up_to_its_nul(farm: Farm) -> None:
    long = sidekiq_title(3, tag="x" * 300)
    [pid] = farm.spawn(title=long)
    assert proc(pid, "cmdline") == long + b"\0"
    farm.retitle({pid: b"short"})
    assert proc(pid, "cmdline").rstrip(b"\0") == b"short"


def test_many_processes_are_retitled_in_one_batch(farm: Farm) -> None:
    pids = farm.spawn(500, title=sidekiq_title(0))
    farm.retitle({pid: sidekiq_title(i % 11) for i, pid in enumerate(pids)})
    assert [proc(pid, "cmdline").rstrip(b"\0") for pid in pids] == [sidekiq_title(i % 11) for i in range(500)]


def test_exec_changes_comm_and_argv_under_the_same_pid(farm: Farm) -> None:
    [pid] = farm.spawn(comm="sh", threads=3)
    farm.exec(pid, "ruby3.1", [b"ruby", b"x.rb"])
    assert proc(pid, "comm") == b"ruby3.1\n"
    assert proc(pid, "cmdline") == b"ruby\0x.rb\0"
    farm.retitle({pid: sidekiq_title(1)})
    assert proc(pid, "cmdline") == sidekiq_title(1) + b"\0"


def test_rename_changes_comm_alone(farm: Farm) -> None:
    [pid] = farm.spawn(comm="ruby", title=b"as before")
    farm.rename(pid, "sidekiq")
    assert proc(pid, "comm") == b"sidekiq\n"
    assert proc(pid, "cmdline").rstrip(b"\0") == b"as before"


def test_a_forked_copy_keeps_its_parents_title_and_outlives_it(farm: Farm) -> None:
    [pid] = farm.spawn(comm="ruby", title=sidekiq_title(2))
    [copy] = farm.fork_copies(pid, comm="processor")
    farm.retitle({pid: sidekiq_title(0)})
    assert (proc(copy, "comm"), parent(copy)) == (b"processor\n", pid)
    assert proc(copy, "cmdline").rstrip(b"\0") == sidekiq_title(2)
    farm.kill([pid])
    assert state(copy) in (b"S", b"R"), "it lives on"
    assert parent(copy) == farm.pid
    farm.kill([copy])
    assert not Path(f"/proc/{copy}").exists()


def test_threads_are_counted_with_the_main_one(farm: Farm) -> None:
    [pid] = farm.spawn(threads=5)
    assert len(os.listdir(f"/proc/{pid}/task")) == 5  # noqa: PTH208 - names are all that is wanted


def test_a_zombie_stays_until_it_is_reaped(farm: Farm) -> None:
    [pid] = farm.spawn()
    farm.zombify([pid])
    assert (state(pid), proc(pid, "cmdline")) == (b"Z", b"")
    farm.reap([pid])
    assert not Path(f"/proc/{pid}").exists()


def test_a_stopped_process_refuses_everything_but_resume_and_kill(farm: Farm) -> None:
    [pid] = farm.spawn()
    farm.stop([pid])
    assert state(pid) == b"T"
    with pytest.raises(FarmError, match=f"{pid} is stopped or dead"):
        farm.retitle({pid: b"x"})
    farm.resume([pid])
    farm.retitle({pid: b"x"})
    assert proc(pid, "cmdline").rstrip(b"\0") == b"x"


def test_a_held_mmap_lock_is_released_by_the_next_command(farm: Farm) -> None:
    [pid] = farm.spawn(title=b"stuck")
    farm.hold_mmap_lock(pid, mapping_mib=64)
    assert state(pid) in b"RD"
    farm.release(pid)
    deadline = time.monotonic() + 10
    while state(pid) != b"S":
        assert time.monotonic() < deadline


def cpu_s(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | 2)


def test_a_process_burns_until_it_rests_and_can_be_asked_meanwhile(farm: Farm) -> None:
    [pid] = farm.spawn(title=sidekiq_title(0))
    farm.burn([pid])
    deadline = time.monotonic() + 10
    while cpu_s(pid) < 0.2:
        assert time.monotonic() < deadline
    farm.retitle({pid: sidekiq_title(1)})
    assert proc(pid, "cmdline").rstrip(b"\0") == sidekiq_title(1)
    taken = cpu_s(pid)
    while cpu_s(pid) < taken + 0.1:
        assert time.monotonic() < deadline
    farm.rest([pid])
    while state(pid) != b"S":
        assert time.monotonic() < deadline


def test_a_process_burns_the_share_that_it_is_told(farm: Farm) -> None:
    half, quarter = farm.spawn(2)
    with contextlib.suppress(PermissionError):  # root shields it from whatever else runs here
        for pid in (half, quarter):
            os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))
    farm.burn([half], 50)
    farm.burn([quarter], 20)
    deadline = time.monotonic() + 20
    while cpu_s(half) < 0.5:
        assert time.monotonic() < deadline
    assert 0.1 < cpu_s(quarter) / cpu_s(half) < 0.9


@pytest.mark.parametrize("fork_only", [False, True])
def test_a_churn_starts_processes_under_the_wanted_name_and_ends(farm: Farm, fork_only: bool) -> None:
    assert 0 < farm.churned(farm.churn(50, 1, comm="ruby", fork_only=fork_only)) <= 50


def test_a_process_that_the_farm_did_not_start_is_refused(farm: Farm) -> None:
    for act in (farm.kill, farm.stop, farm.zombify):
        with pytest.raises(FarmError, match="no such member"):
            act([os.getpid()])


def test_everything_dies_with_a_killed_farm() -> None:
    farm = Farm()
    [pid] = farm.spawn()
    copies = farm.fork_copies(pid)
    os.kill(farm.pid, 9)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{p}").exists() and state(p) != b"Z" for p in (pid, *copies)):
        assert time.monotonic() < deadline
    with pytest.raises(FarmError):
        farm.spawn()
    farm.close()
