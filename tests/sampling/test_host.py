"""This machine's cores, users and descriptors, compared with what the machine itself reports."""

import pwd
import resource
import subprocess
import sys

import pytest

from agent.config.schema import Workers
from agent.sampling import host


def test_users_are_names_or_numbers() -> None:
    assert (host.user_id("root"), host.user_id(12345), host.user_id("no-such-user-here")) == (0, 12345, None)
    free = next(uid for uid in range(60_000, 2**16) if uid not in {p.pw_uid for p in pwd.getpwall()})
    assert [host.user_name(uid) for uid in (0, free, None)] == ["root", str(free), "?"]


def test_a_selector_that_cannot_be_is_a_fault_of_the_key_that_is_wrong() -> None:
    assert host.CHECKS.workers(Workers()) is None
    assert host.CHECKS.workers(Workers(comm=("[]",))) == ("comm", '"[]" has a [class] that is empty or not supported')
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
