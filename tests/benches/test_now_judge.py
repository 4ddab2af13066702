"""The judge of the bench on how soon weights follow jobs: delays, and weights that must not occur."""

import pytest
from benches.now.judge import Delay, Job, Seen, delay, gaps, idle_counted

JOB = Job(10.0, 12.0)
FOLLOWED = [Seen(0.0, 100), Seen(10.4, 50), Seen(12.9, 100)]


def of(*seen: tuple[float, int]) -> list[Seen]:
    return [Seen(*each) for each in seen]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (FOLLOWED, Delay(0.4, 0.9)),
        (of((0, 100)), Delay(None, 0.0)),
        (of((0, 100), (12.1, 50), (13, 100)), Delay(None, 0.0)),
        (of((0, 100), (10.4, 50)), Delay(0.4, None)),
        (of((0, 100), (10.4, 50), (11, 100), (11.5, 50), (12.5, 100)), Delay(0.4, 0.5)),
    ],
    ids=["followed", "never seen", "seen when it was over", "never forgotten", "forgotten and seen again"],
)
def test_delays_are_from_a_jobs_own_start_and_end(seen: list[Seen], expected: Delay) -> None:
    found = delay(JOB, seen)
    assert found.start_s == pytest.approx(expected.start_s)
    assert found.end_s == pytest.approx(expected.end_s)


@pytest.mark.parametrize(
    ("seen", "counted"),
    [
        (FOLLOWED, 0),
        (of((0, 100), (5, 50), (6, 100), (10.4, 50), (12.9, 100)), 1),
        (of((0, 100), (10.4, 50), (12.9, 100), (14, 50), (15, 100)), 1),
        (of((0, 100), (10.4, 50), (11, 0), (11.5, 50), (12.9, 100)), 1),
        (of((0, 100), (10.4, 50), (11, 100), (11.5, 50), (12.9, 100)), 0),
        (of((0, 50)), 1),
    ],
    ids=["followed", "before", "again", "the other one, too", "a gap is none", "from the start"],
)
def test_idle_workers_are_those_counted_outside_of_jobs_or_beside_them(seen: list[Seen], counted: int) -> None:
    assert len(idle_counted([JOB], seen)) == counted


def test_gaps_are_between_the_moment_a_job_was_followed_and_its_end() -> None:
    assert gaps([JOB], FOLLOWED) == 0
    assert gaps([JOB], of((0, 100), (10.4, 50), (11, 100), (11.5, 50), (12.9, 100))) == 1
