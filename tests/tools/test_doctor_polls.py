"""What `busyweight doctor` reports about pollers: whether they may poll, how often they do, and what that pace
needs."""

import threading
from pathlib import Path
from typing import Any

import pytest

from agent.config import toml
from agent.tools.doctor import polls
from agent.tools.doctor.context import CheckContext
from agent.tools.doctor.finding import Finding
from agent.tools.doctor.pace import Seen
from tests.tools.asking import DEADLINE_S, Doctor, write
from tests.tree import TreeAgent


@pytest.fixture
def watched_long(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch is as long as it takes to see polls."""
    monkeypatch.setattr(polls, "WATCH_S", DEADLINE_S)
    monkeypatch.setattr(polls, "RARE_S", DEADLINE_S)


def test_pollers_turned_away_are_named_and_so_are_those_who_may(agent: TreeAgent, doctor: Doctor) -> None:
    write(agent, 'allow = ["192.0.2.0/24"]')
    with agent:
        assert agent.ask() == b""
        found = doctor()
        assert "warn refused: 127.0.0.1; allowed: 192.0.2.0/24" in found.said("allow")
        assert found.states("pollers") == ["warn"]
    write(agent, "")
    with agent:
        found = doctor()
        assert found.said("allow").startswith("ok empty: anyone")
        assert found.said("pollers").startswith("ok 127.0.0.1")


class Balancer:
    """Polls an agent again and again, until it is closed."""

    def __init__(self, agent: TreeAgent, every_s: float) -> None:
        self._end = threading.Event()
        self._agent, self._every_s = agent, every_s
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._end.wait(self._every_s):
            self._agent.ask()


@pytest.mark.parametrize(
    ("settings", "state", "expected"),
    [
        ("", "ok", "are fine"),
        ('give_up_after = "10ms"', "fail", "expires before the next poll"),
        ('[reply]\nrelease_for = "10ms"', "warn", "may be gone before the next poll"),
    ],
)
@pytest.mark.usefixtures("watched_long")
def test_the_pace_of_polls_is_judged_by_the_times_of_the_configuration(
    agent: TreeAgent, doctor: Doctor, settings: str, state: str, expected: str
) -> None:
    agent.write_config(f'[scan]\nprocfs = "{agent.tree}"\n{settings}\n')
    with agent, Balancer(agent, 0.05):
        found = doctor()
    assert found.states("agent-inter") == [state]
    assert "polls: 127.0.0.1 every " in found.said("agent-inter") and expected in found.said("agent-inter")


def test_a_gap_between_polls_is_the_average_of_what_was_seen() -> None:
    seen = Seen(5, 9.0)
    for now_s, last_s, count in ((10.0, 1.0, 5), (11.0, 0.0, 6), (12.5, 0.1, 8), (13.5, 0.5, 9)):
        seen.look(now_s, last_s, count)
    assert seen.gap_s == pytest.approx(2.0 / 3)
    assert seen.quiet_s == pytest.approx(2.0)


OWN, THEIRS = "192.0.2.1", "192.0.2.7"
NEVER_AGAIN = 1e9


class Site:
    """An agent and its pollers: when each started, and how often it polls. It answers `status` and tells the time,
    which only advances while doctor waits; doctor started at 0 and polled once."""

    def __init__(self, pollers: dict[str, tuple[float, float]], scans: dict[str, Any] | None = None) -> None:
        self.pollers = pollers
        self.scans = scans or {}
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def ask(self, _: Path, command: str) -> dict[str, Any]:
        told = {one["address"]: one for one in self.status()["polls"]["pollers"]}
        own = told.setdefault(OWN, {"address": OWN, "polls": 0, "last_s": self.now_s, "allowed": True})
        own |= {"polls": own["polls"] + 1, "last_s": min(own["last_s"], self.now_s)}
        return {command: {"polls": {"pollers": list(told.values())}}}

    def status(self) -> dict[str, Any]:
        pollers = []
        for address, (first_s, every_s) in self.pollers.items():
            later = int((self.now_s - first_s) // every_s)
            last_s = self.now_s - first_s - later * every_s
            pollers.append({"address": address, "polls": 1 + later, "last_s": last_s, "allowed": True})
        return {"polls": {"listening": [f"{OWN}:5001"], "pollers": pollers}} | self.scans


def scans(way: str, newest_ms: float, mean_ms: float) -> dict[str, Any]:
    """An agent's report of its scans."""
    return {
        "sample": {"discovery": way, "cost_ms": newest_ms},
        "scanner": {"ended": {"done": 100, "cost_s": mean_ms / 10}},
    }


def judged(site: Site, monkeypatch: pytest.MonkeyPatch, settings: str = "", lines: int | None = None) -> list[Finding]:
    monkeypatch.setattr("agent.tools.client.ask", site.ask)
    monkeypatch.setattr(polls, "time", site)
    none = Path("none")
    context = CheckContext(toml.parse(settings, ""), none, none, None, site.status(), "", [], (1, ""), None, None, "")
    return list(polls.agent_inter(context, lines))


@pytest.mark.parametrize("address", [OWN, THEIRS])
@pytest.mark.parametrize(("release_for", "state"), [("5s", "warn"), ("19s", "warn"), ("20s", "ok")])
def test_who_polls_every_10_s_is_watched_until_that_is_known_and_judged_by_it(
    monkeypatch: pytest.MonkeyPatch, address: str, release_for: str, state: str
) -> None:
    site = Site({address: (-3.0, 10.0)})
    [found] = judged(site, monkeypatch, f'[reply]\nrelease_for = "{release_for}"\n')
    assert found.state == state
    assert f"polls: {address} every 10 s; so agent-inter is at least 10 s" in found.what
    # Their last poll before doctor came is theirs for sure, that from doctor's own address is not.
    assert site.now_s == pytest.approx({THEIRS: 7, OWN: 17}[address], abs=0.5)
    if state == "warn":
        assert found.remedy == f"set reply.release_for ({release_for}) to more than twice agent-inter"


def test_a_rare_poller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A poller without a second poll in half a minute is judged by the lower bound of its agent-inter."""
    site = Site({THEIRS: (-2.0, 45.0)})
    late, gone = judged(site, monkeypatch)
    assert site.now_s == pytest.approx(polls.RARE_S, abs=1)
    assert f"polls: {THEIRS} no poll in 32 s; so agent-inter is at least 32 s" in late.what
    assert (late.state, gone.state) == ("fail", "warn")
    assert "give_up_after (30s)" in late.remedy and "release_for (5s)" in gone.remedy
    times = '[scan]\ngive_up_after = "5m"\n[reply]\nrelease_for = "5m"\n'
    [found] = judged(Site({THEIRS: (-2.0, 45.0)}), monkeypatch, times)
    assert (found.state, found.what.partition("; unknown whether ")[2]) == (
        "warn",
        "give_up_after 5m and release_for 5m are long enough",
    )


def test_doctors_own_polls_are_not_a_balancers(monkeypatch: pytest.MonkeyPatch) -> None:
    before = (-20.0, NEVER_AGAIN)
    for pollers, state, what in (
        ({OWN: before, THEIRS: (-1.0, 2.0)}, "ok", f"polls: {THEIRS} every 2 s; so agent-inter is at least 2 s"),
        ({OWN: before}, "warn", "unknown: no poll was seen"),
    ):
        site = Site(pollers)
        [found] = judged(site, monkeypatch)
        assert (found.state, found.what.partition("; fresh_for")[0]) == (state, what)
        assert site.now_s == pytest.approx(polls.WATCH_S, abs=0.5), "no longer for what is nobody's"


def test_who_polled_from_this_host_as_often_as_a_balancer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site({OWN: (-20.0 - 10 * 45.0, 45.0)})
    [found] = judged(site, monkeypatch)
    assert site.now_s == pytest.approx(polls.RARE_S, abs=0.5)
    assert (found.state, found.what.partition(";")[0]) == ("warn", f"polls: {OWN} no poll in 25 s")


def test_pollers_that_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Doctor does not wait for an old poller, and reports nothing if there never was one."""
    site = Site({THEIRS: (-100.0, NEVER_AGAIN)})
    [found] = judged(site, monkeypatch)
    assert (found.state, found.what, site.now_s) == ("warn", "unknown: no poll was seen", 0.0)
    assert "release_for (5s)" in found.remedy
    assert judged(Site({}), monkeypatch) == []


@pytest.mark.parametrize(("fresh_for", "state"), [("250ms", "ok"), ("500ms", "warn"), ("2s", "warn")])
def test_a_sample_that_is_fresh_until_the_next_poll_is_too_old_for_it(
    monkeypatch: pytest.MonkeyPatch, fresh_for: str, state: str
) -> None:
    site = Site({THEIRS: (-0.4, 0.5)})
    [found] = judged(site, monkeypatch, f'[scan]\nfresh_for = "{fresh_for}"\n', lines=1)
    assert found.state == state
    assert (found.remedy == "") is (state == "ok")
    if state == "warn":
        assert f"set scan.fresh_for ({fresh_for}) to half of agent-inter" in found.remedy


@pytest.mark.parametrize(
    ("way", "newest_ms", "mean_ms", "state"),
    [
        ("ebpf", 0.8, 0.9, "ok"),
        ("sweep", 13, 14, "ok"),
        ("sweep", 40, 41, "warn"),
        ("sweep", 80, 13, "ok"),
        ("ebpf", 40, 41, "warn"),
    ],
)
def test_expensive_scans(
    monkeypatch: pytest.MonkeyPatch, way: str, newest_ms: float, mean_ms: float, state: str
) -> None:
    """Scans too expensive for the pace of polls are reported, with what would be cheaper."""
    site = Site({THEIRS: (-0.4, 0.5)}, scans(way, newest_ms, mean_ms))
    *_, found = judged(site, monkeypatch, lines=1)
    assert (found.check, found.state) == ("scan cost", state)
    assert f"by {way} takes {min(newest_ms, mean_ms):.2g} ms" in found.what
    if state == "warn":
        assert "scan.max_duty (5%) permits one every 0.8 s" in found.what
        assert ("eBPF" in found.remedy) is (way == "sweep")
        assert "increase scan.max_duty" in found.remedy
