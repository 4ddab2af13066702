"""The name service (LDAP, sssd) hangs: polls, commands and the stop do not wait for it."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.tree import TreeAgent

from .running import AT_ONCE, CAPACITY, DEADLINE_S, Notified, begins_with, log_lines

SAMPLE = b"up 75% #6/24 busy\n"


class Names:
    """The agent's name lookups: from `hang` until `heal` they do not return."""

    def __init__(self, home: Path) -> None:
        self._hangs, self._asked = home / "hangs", home / "asked"

    def statements(self) -> str:
        return f"""
import grp, pathlib, pwd, time
def behind(right):
    def ask(whom):
        while pathlib.Path({str(self._hangs)!r}).exists():
            with open({str(self._asked)!r}, "a") as asked:
                asked.write(f"{{whom}}\\n")
            while pathlib.Path({str(self._hangs)!r}).exists():
                time.sleep(0.01)
        return right(whom)
    return ask
pwd.getpwuid, pwd.getpwnam, grp.getgrnam = map(behind, (pwd.getpwuid, pwd.getpwnam, grp.getgrnam))
"""

    def hang(self) -> None:
        self._hangs.touch()

    def heal(self) -> None:
        self._hangs.unlink()

    def asked(self) -> list[str]:
        """Whom it was asked for while it hung."""
        return self._asked.read_text().split() if self._asked.exists() else []


@pytest.fixture
def names(tmp_path: Path, agent: TreeAgent) -> Names:
    names = Names(tmp_path)
    begins_with(agent, names.statements())
    return names


def who(agent: TreeAgent) -> str:
    return str(json.loads(agent.order("status", "--json"))["override"]["who"])


def test_an_order_is_carried_out_though_nobody_tells_who_gave_it(agent: TreeAgent, names: Names) -> None:
    with agent:
        agent.until(agent.control.exists, "taking orders", DEADLINE_S)
        names.hang()
        drain = [str(agent.program), "drain", "--control", str(agent.control)]
        with subprocess.Popen(drain, stdout=subprocess.PIPE, text=True) as order:
            agent.until(names.asked, "asking for the name", DEADLINE_S)
            # After a second of it the order is carried out; what counts is that there is an answer.
            assert agent.ask().startswith((SAMPLE, b"drain up #drain by uid "))
            told = order.communicate(timeout=DEADLINE_S)[0]
        assert told.startswith("active: drain by uid ")
        assert agent.ask().startswith(b"drain up #drain by uid ")
        agent.order("weight", "40%")
        assert len(names.asked()) == 1
        names.heal()
        agent.until(
            lambda: agent.order("weight", "40%") and not who(agent).startswith("uid "), "named again", DEADLINE_S
        )


def test_a_reload_during_a_slow_name_lookup(agent: TreeAgent, names: Names, notified: Notified) -> None:
    """Only the reload waits for it; a configuration written meanwhile is loaded afterwards."""
    with agent:
        notified.until("READY=1")
        names.hang()
        agent.write_config(AT_ONCE + '[weight]\ncapacity = 12\n[control]\ngroup = "root"\n')
        agent.send(signal.SIGHUP)
        agent.until(names.asked, "asking for the group", DEADLINE_S)
        assert agent.ask() == SAMPLE
        agent.write_config(AT_ONCE + '[weight]\ncapacity = 8\n[workers]\nusers = ["root"]\n')
        agent.send(signal.SIGHUP)
        assert agent.ask() == SAMPLE
        names.heal()
        notified.until("READY=1")
        notified.until("READY=1")
        agent.wait_answer(b"up 25% #6/8 busy\n")
        assert log_lines(agent).count("info: reloaded the configuration") == 2


def test_a_reload_that_waits_for_names_holds_up_no_end(agent: TreeAgent, names: Names, notified: Notified) -> None:
    with agent:
        notified.until("READY=1")
        names.hang()
        agent.write_config(AT_ONCE + CAPACITY + '[control]\ngroup = "root"\n')
        agent.send(signal.SIGHUP)
        agent.until(names.asked, "asking for the group", DEADLINE_S)
        agent.send(signal.SIGTERM)
        assert agent.wait_exit(DEADLINE_S) == 0
