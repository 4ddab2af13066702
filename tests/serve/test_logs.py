"""Standard error that nobody reads: the agent continues, stops when told to, and reports lost lines."""

import fcntl
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.serve.logs import LINES_MAX, Patient
from tests.real.parts import until
from tests.tree import TreeAgent

from .running import AT_ONCE, CAPACITY, DEADLINE_S, Notified

ROOM = 4096


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Its two ends; whoever writes waits until somebody reads."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, ROOM)
        os.write(writer, b"x" * (ROOM - 1) + b"\n")
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


class Unread(TreeAgent):
    """Its standard error is a pipe."""

    stderr = -1

    def spawn(self, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.argv(), *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.stderr,
            env=self.environment(),
            cwd=self.home,
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_an_agent_whose_log_nobody_reads_starts_serves_reloads_and_ends(
    agent: TreeAgent, notified: Notified, number: signal.Signals
) -> None:
    unread = Unread(agent.home, agent.tree, CAPACITY + AT_ONCE, **agent.environ)
    with full_pipe() as (_, unread.stderr), unread:
        notified.until("READY=1")
        for _ in range(13):
            unread.write_config("what = 1\n" * 20)
            unread.send(signal.SIGHUP)
            notified.until("READY=1")
            assert unread.ask() == b"up 75% #6/24 busy\n"
        unread.write_config(CAPACITY + AT_ONCE)
        unread.send(number)
        assert unread.wait_exit(DEADLINE_S) == 0


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("test")
    yield logger
    logger.handlers.clear()


def test_lines_come_in_their_order_when_somebody_reads_and_what_was_lost_is_told(logger: logging.Logger) -> None:
    with full_pipe() as (reader, writer):
        patient = Patient(writer)
        logger.addHandler(patient)
        patient.begin()
        for n in range(LINES_MAX + 7):
            logger.info("line %d", n)
        with os.fdopen(os.dup(reader), "rb") as lines:
            assert lines.readline() == b"x" * (ROOM - 1) + b"\n"
            for n in range(LINES_MAX):
                assert lines.readline() == b"line %d\n" % n
            assert lines.readline() == b"7 log lines were dropped here: standard error was blocked\n"
            logger.info("and on")
            assert lines.readline() == b"and on\n"


def test_a_line_is_written_when_it_was_logged_and_leaves_no_thread(logger: logging.Logger) -> None:
    reader, writer = os.pipe()
    before = threading.active_count()
    patient = Patient(writer)
    logger.addHandler(patient)
    logger.info("kept until threads may be")
    patient.begin()
    logger.info("at once")
    patient.flush()
    until(lambda: threading.active_count() == before, "no thread is left", DEADLINE_S)
    os.close(writer)
    with os.fdopen(reader, "rb") as lines:
        assert lines.read() == b"kept until threads may be\nat once\n"


def test_a_reader_that_is_gone_costs_the_lines_only(logger: logging.Logger) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    patient = Patient(writer)
    logger.addHandler(patient)
    patient.begin()
    logger.info("to nobody")
    patient.flush()
    os.close(writer)
