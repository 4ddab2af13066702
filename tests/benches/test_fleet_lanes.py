"""The fleet bench's lanes: results in order, one run at a time on each fleet, and an end to all if one fails."""

import threading
from collections import Counter
from pathlib import Path

import pytest
from benches.fleet.lanes import Lanes
from benches.fleet.parts import Fleet

DEADLINE_S = 20.0


def idle_fleets(count: int) -> list[Fleet]:
    return [Fleet(Path("none"), 0, 0, 1, [], network) for network in range(count)]


def test_results_come_in_the_order_of_the_items_whoever_is_ready_first() -> None:
    second_done = threading.Event()
    at_work: Counter[int] = Counter()

    def work(fleet: Fleet, item: int) -> int:
        at_work[fleet.network] += 1
        assert at_work[fleet.network] == 1
        if item == 0:
            assert second_done.wait(DEADLINE_S)
        second_done.set()
        at_work[fleet.network] -= 1
        return 10 * item

    assert list(Lanes(idle_fleets(2)).each(work, range(20))) == [10 * item for item in range(20)]


def test_if_one_run_fails_the_others_are_told_to_end() -> None:
    fleets = idle_fleets(2)

    def work(fleet: Fleet, item: int) -> None:
        if item == 0:
            raise ValueError("broken")
        assert fleet.ending.wait(DEADLINE_S)

    with pytest.raises(ValueError, match="broken"):
        list(Lanes(fleets).each(work, range(2)))
    assert all(fleet.ending.is_set() for fleet in fleets)
