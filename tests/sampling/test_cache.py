"""When a poll starts a scan, when it waits for one, and which sample it gets, with the test's own clock."""

import pytest

from agent.sampling.cache import Cache, Pace

PACE = Pace(fresh_for=0.5, min_gap=0.25, max_duty=0.05, give_up_after=30)


class World:
    """A cache, its clock, and the scans it began."""

    def __init__(self, pace: Pace = PACE) -> None:
        self.now_s = 1000.0
        self.began: list[float] = []
        self.cache: Cache[str] = Cache(pace, lambda: self.now_s, lambda: self.began.append(self.now_s))

    def at(self, now_s: float) -> bool:
        """A poll at this time; returns whether it should wait."""
        self.now_s = 1000.0 + now_s
        return self.cache.poll()

    def end(self, *, cost_s: float = 0.0, sample: str = "sample") -> None:
        """The running scan ends now, and took no time."""
        self.cache.done(sample, self.began[-1], cost_s)

    def scanned(self, *, cost_s: float = 0.0) -> "World":
        """After a first scan at 0."""
        self.at(0)
        self.end(cost_s=cost_s)
        return self

    @property
    def scans(self) -> list[float]:
        return [round(began - 1000, 6) for began in self.began]


def test_without_polls_there_are_no_scans() -> None:
    world = World().scanned()
    world.now_s += 3600
    assert (world.scans, world.cache.scanning) == ([0], False)


def test_the_first_poll_starts_a_scan_and_waits_for_it() -> None:
    world = World()
    assert world.cache.newest() is None
    assert world.at(0)
    assert world.scans == [0]


def test_up_to_half_of_fresh_for_a_poll_starts_nothing_and_does_not_wait() -> None:
    world = World().scanned()
    assert not world.at(0.25)
    assert world.scans == [0]


def test_half_of_fresh_for() -> None:
    """A poll that finds an older sample starts the next scan, and is answered at once."""
    world = World().scanned()
    assert not world.at(0.26)
    assert world.scans == [0, 0.26]
    assert world.cache.newest() == "sample"


def test_up_to_fresh_for_no_poll_waits_though_a_scan_is_running() -> None:
    world = World().scanned()
    assert [world.at(t) for t in (0.3, 0.4, 0.5)] == [False, False, False]
    assert world.at(0.51), "past it, one does"
    assert world.scans == [0, 0.3]


def test_past_fresh_for_a_poll_waits_for_the_scan_that_it_starts() -> None:
    world = World().scanned()
    assert world.at(7)
    world.end(sample="newer")
    assert world.cache.newest() == "newer"
    assert not world.at(7), "the sample is fresh again"


def test_a_poll_does_not_wait_where_no_scan_may_start() -> None:
    world = World(Pace(fresh_for=0.1, min_gap=5, max_duty=1, give_up_after=30)).scanned()
    assert not world.at(4.9)
    assert world.scans == [0]
    assert world.cache.newest() == "sample", "it takes the newest there is"
    assert world.at(5)


def test_a_thousand_polls_of_one_moment_cost_one_scan() -> None:
    world = World()
    assert all(world.at(0) for _ in range(1000))
    world.end()
    assert not any(world.at(0.001) for _ in range(1000))
    assert world.scans == [0]


def test_no_two_scans_begin_closer_than_min_gap() -> None:
    world = World(Pace(fresh_for=0, min_gap=0.25, max_duty=1, give_up_after=30))
    for tick in range(100):
        world.at(tick / 100)
        if world.cache.scanning:
            world.end()
    assert world.scans == [0, 0.25, 0.5, 0.75]


def test_min_gap_counts_from_the_begin_of_a_scan_however_long_it_took() -> None:
    world = World(Pace(fresh_for=0, min_gap=2, max_duty=1, give_up_after=30))
    world.at(0)
    world.now_s += 1.9
    world.end()
    world.at(1.95)
    assert world.scans == [0]
    world.at(2)
    assert world.scans == [0, 2]


def test_scans_take_no_more_than_max_duty_of_one_core() -> None:
    world = World().scanned(cost_s=0.1)
    assert not world.at(1.99)
    assert world.at(2)
    world.end(cost_s=0.0)
    world.at(2.26)
    assert world.scans == [0, 2, 2.26], "a cheap scan is bound by min_gap alone"


def test_a_failed_scan_that_cost_much_is_not_repeated_sooner() -> None:
    world = World()
    world.at(0)
    world.cache.failed("broken", 0.1)
    world.at(1.99)
    assert world.scans == [0]


def test_a_full_duty_and_no_gap_let_every_poll_have_its_own_scan() -> None:
    world = World(Pace(fresh_for=0, min_gap=0, max_duty=1, give_up_after=30))
    for tick in range(5):
        assert world.at(tick / 1000)
        world.end()
    assert world.scans == [0, 0.001, 0.002, 0.003, 0.004]


def test_polls_during_a_scan_join_it_even_where_every_poll_wants_a_new_one() -> None:
    world = World(Pace(fresh_for=0, min_gap=0, max_duty=1, give_up_after=30))
    assert [world.at(t) for t in (0, 0.1, 9)] == [True, True, True]
    assert world.scans == [0]


def test_a_sample_is_as_old_as_the_begin_of_its_scan() -> None:
    world = World()
    assert world.cache.age() is None
    world.at(0)
    world.now_s += 3
    world.end()
    assert world.cache.age() == 3


def test_a_sample_older_than_give_up_after_is_none() -> None:
    world = World().scanned()
    world.now_s = 1030
    assert world.cache.newest() == "sample"
    world.now_s = 1030.1
    assert world.cache.newest() is None


def test_a_sample_settles_what_is_said_until_a_scan_may_be_due_or_it_is_given_up() -> None:
    assert World().cache.settled_until() == 0
    assert World().scanned().cache.settled_until() == 1000.25
    assert World(Pace(60, 0.25, 1, give_up_after=3)).scanned().cache.settled_until() == 1003
    assert World(Pace(0, 0, 1, give_up_after=3)).scanned().cache.settled_until() == 1000
    assert World(Pace(0.1, 0.25, 1, give_up_after=3)).scanned().cache.settled_until() == 1000.25
    dear = World().scanned(cost_s=0.1)
    assert dear.cache.settled_until() == 1002, "max_duty permits none before"
    dear.at(2)
    assert dear.cache.settled_until() == 1000.25, "a scan is running"


def test_a_failing_scan_leaves_the_sample_to_grow_old_and_says_why() -> None:
    world = World().scanned()
    world.at(1)
    world.cache.failed("the scan panicked", 0.0)
    assert (world.cache.newest(), world.cache.age(), world.cache.failure) == ("sample", 1, "the scan panicked")
    world.now_s = 1031
    assert world.cache.newest() is None


def test_after_a_failure_the_next_poll_tries_again_and_success_ends_it() -> None:
    world = World()
    assert world.at(0)
    world.cache.failed("broken", 0.0)
    assert not world.at(0.1), "min_gap holds for failures too"
    assert world.at(0.25)
    world.end()
    assert (world.cache.failure, world.cache.newest()) == (None, "sample")


def test_a_clock_that_jumps_on_after_a_suspend_gives_the_sample_up() -> None:
    world = World().scanned()
    assert world.at(8 * 3600)
    assert world.cache.newest() is None


@pytest.mark.parametrize("fresh_for", [0.0, 0.5])
def test_a_pace_that_changes_holds_from_the_next_poll_on(fresh_for: float) -> None:
    world = World().scanned()
    world.cache.pace = Pace(fresh_for=fresh_for, min_gap=0.25, max_duty=0.05, give_up_after=30)
    assert world.at(0.25) is (fresh_for == 0)
