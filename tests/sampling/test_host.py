"""What this machine is: cores, users, descriptors. Compared with what the machine itself says."""

import os
import pwd
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from agent.config.schema import Workers
from agent.sampling import host


def test_cores_are_the_machines_physical_ones() -> None:
    siblings = {path.read_text() for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/core_cpus_list")}
    assert siblings, "this machine does not tell its cores; there is nothing to compare with"
    cores, why = host.cores()
    assert cores == len(siblings)
    assert why == f"physical cores, of {os.sysconf('SC_NPROCESSORS_ONLN')} logical"


def test_the_agents_own_affinity_does_not_make_the_machine_look_small() -> None:
    program = "import os; from agent.sampling import host; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    program += "print(host.cores()[0])"
    narrow = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(narrow.stdout) == host.cores()[0]


def test_where_cores_are_not_known_logical_cpus_serve_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.cpu_count", lambda logical=True: 8 if logical else None)
    assert host.cores() == (8, "logical CPUs, since the machine does not tell its physical cores")


def test_users_are_names_or_numbers() -> None:
    assert (host.user_id("root"), host.user_id(12345), host.user_id("no-such-user-here")) == (0, 12345, None)
    free = next(uid for uid in range(60_000, 2**16) if uid not in {p.pw_uid for p in pwd.getpwall()})
    assert [host.user_name(uid) for uid in (0, free, None)] == ["root", str(free), "?"]


def test_a_selector_that_cannot_be_is_a_fault_of_the_key_that_is_wrong() -> None:
    assert host.CHECKS.workers(Workers()) is None
    assert host.CHECKS.workers(Workers(comm=("[]",))) == ("comm", '"[]" has a [class] that is empty or not plain')
    wrong = host.CHECKS.workers(Workers("custom", pattern="("))
    assert wrong is not None and wrong[0] == "pattern"


HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.parametrize(
    ("soft", "hard", "expected"), [(64, 64, 64), (64, 512, 512), (64, HARD, min(HARD, host.FDS_WANTED))]
)
def test_as_many_descriptors_are_taken_as_are_permitted_and_useful(soft: int, hard: int, expected: int) -> None:
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "from agent.sampling import host;"
        "print(host._raise_fd_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(expected), str(expected)]
