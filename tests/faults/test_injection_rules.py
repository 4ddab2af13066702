"""What a life with a failing call is judged by finds each breach, and excuses no more than it says."""

import signal
from collections import Counter
from dataclasses import replace

import pytest

from tests.faults.injection import DRAIN, READY, SERVE, START, STOP, Case, Life, Poll, cases_of, faults

FULL, DRAINED, READIED, RELEASED = "up 0% #10/10 busy\n", "drain up #x\n", "ready up 0% #x\n", "up 100% #stopping\n"
POLLS = [
    Poll(START, SERVE, FULL),
    Poll(DRAIN, DRAIN, DRAINED),
    Poll(READY, READY, READIED),
    Poll(READY, STOP, FULL),
    Poll(STOP, STOP, RELEASED),
    Poll(STOP, STOP, None),
]
SOUND = Life(POLLS, served=True, silent_s=0.1, stop_s=0.3, log="info: stopped\n", struck=True)
FAILED_START = Life(exit_code=1, log="busyweight: cannot start\n")

READ = Case("1 openat reader ~/proc/#/comm", 1, "EMFILE")
READ_HANGS = READ._replace(name="hang")


@pytest.mark.parametrize("life", [SOUND, FAILED_START])
def test_a_life_in_which_all_is_well_has_no_fault(life: Life) -> None:
    assert faults(READ, life) == []


@pytest.mark.parametrize(
    ("case", "life", "found"),
    [
        (READ, replace(SOUND, polls=[Poll(SERVE, SERVE, "up 10% #9/10 busy\n"), *POLLS]), "said 'up 10%"),
        (READ_HANGS, replace(SOUND, polls=[Poll(START, START, "up 10% #9/10 busy\n"), *POLLS]), "said 'up 10%"),
        (READ, replace(SOUND, polls=[Poll(SERVE, SERVE, RELEASED), *POLLS]), "said 'up 100% #stopping"),
        (READ, replace(SOUND, polls=[Poll(STOP, STOP, "up 100% #0/10\n"), *POLLS]), "when it stopped"),
        (READ, replace(SOUND, polls=POLLS[:4]), "the last word was 'up 0%"),
        (READ, replace(SOUND, polls=[p for p in POLLS if p.line != READIED]), "in a drain"),
        (READ, replace(SOUND, polls=[Poll(SERVE, SERVE, None), *POLLS]), "1 polls were lost"),
        (READ, replace(SOUND, refused=["drain: no agent"]), "refused twice: drain"),
        (READ, replace(SOUND, silent_s=0.6), "nothing was heard for 0.6 s"),
        (READ_HANGS, replace(SOUND, silent_s=5.0), "nothing was heard for 5.0 s"),
        (READ, replace(SOUND, exit_code=1), "ended with 1"),
        (READ, replace(SOUND, exit_code=-6), "ended with -6"),
        (READ, replace(SOUND, stop_s=11.0), "took 11.0 s to stop"),
        (READ, replace(SOUND, log="thread 'reader' panicked at"), "the log says 'panicked'"),
        (READ, replace(FAILED_START, exit_code=-signal.SIGSEGV), "did not serve, and ended with -11"),
        (READ, replace(FAILED_START, exit_code=0), "did not serve, and ended with 0"),
        (READ, replace(FAILED_START, log=""), "did not say why"),
        (READ_HANGS, FAILED_START, "never served"),
    ],
)
def test_each_breach_is_found(case: Case, life: Life, found: str) -> None:
    [fault] = faults(case, life)
    assert found in fault.what


SILENT = replace(SOUND, silent_s=5.0)
ABORTED = Life(exit_code=-signal.SIGABRT, log="Assertion `0' failed")


@pytest.mark.parametrize(
    ("site", "life", "excused"),
    [
        ("1 epoll_pwait main -", SILENT, True),
        ("1 accept4 main inet-listener", SILENT, True),
        ("1 epoll_ctl main try:inet-listener", SILENT, True),
        ("1 clone3 reader -", SILENT, False),
        ("1 write reader anon_inode:[eventfd]", SILENT, False),
        ("2 write busyweight anon_inode:[eventfd]", SILENT, True),
        ("4 read busyweight /sys/devices/system/cpu/online", SILENT, False),
        ("1 sendto main unix-datagram!waits", SILENT, False),
        ("1 openat main ~/agent/state", SILENT, False),
        ("1 read main /proc/self/stat", SILENT, False),
    ],
)
def test_only_a_call_that_never_waits_may_hold_polls_up(site: str, life: Life, excused: bool) -> None:
    assert (faults(Case(site, 1, "hang"), life) == []) is excused
    assert faults(Case(site, 1, "ENOMEM"), life), "one that fails holds nobody up"


@pytest.mark.parametrize(
    ("site", "life", "excused"),
    [
        ("0 pipe2 main -", ABORTED, True),
        ("0 eventfd2 main -", ABORTED, False),
        ("1 pipe2 main -", ABORTED, False),
        ("0 pipe2 main -", replace(ABORTED, exit_code=-signal.SIGSEGV), False),
        ("0 pipe2 main -", replace(SOUND, exit_code=-signal.SIGABRT), False),
    ],
)
def test_only_the_pipes_of_libuvs_locks_may_end_a_start_by_a_signal(site: str, life: Life, excused: bool) -> None:
    assert (faults(Case(site, 1, "EMFILE"), life) == []) is excused


def test_only_a_poll_whose_own_connection_fails_may_be_lost() -> None:
    lost = replace(SOUND, polls=[Poll(SERVE, SERVE, None), *POLLS])
    assert faults(Case("1 sendto main poll", 1, "ENOMEM"), lost) == []
    assert faults(Case("1 sendto main poll", 1, "hang"), lost)
    assert faults(Case("1 accept4 main inet-listener", 1, "EMFILE"), lost)
    twice = replace(lost, polls=[Poll(SERVE, SERVE, None), *lost.polls])
    assert faults(Case("1 sendto main poll", 1, "ENOMEM"), twice)


def test_each_call_fails_by_what_the_kernel_says_of_it_and_hangs() -> None:
    one, two = "1 openat reader ~/proc/#/comm", "1 epoll_ctl main add:inet-listener"
    all_of_them, sure = cases_of([Counter({one: 3, two: 1}), Counter({one: 1})])
    assert [str(case) for case in all_of_them] == [
        *(f"{one} no. {nth}, {name}" for nth in (1, 2) for name in ("EMFILE", "EACCES", "ENOMEM", "hang")),
        f"{two} no. 1, hang",
    ]
    assert sure == {case for case in all_of_them if case.site == one and case.nth == 1}


def test_a_case_is_read_as_it_is_written() -> None:
    assert Case.parse(str(READ_HANGS)) == READ_HANGS
    assert Case.parse("openat") is None
