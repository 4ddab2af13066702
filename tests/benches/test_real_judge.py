"""How the bench of real hosts judges its measurements."""

from typing import Any

import pytest
from benches.real import page
from benches.real.judge import busy_until, disagreements, held

Results = dict[str, Any]


@pytest.mark.parametrize(
    ("stairs", "load"),
    [
        ([(10, 0.5), (20, 2.0)], 15),  # a second is half of the way between them, by their logarithms
        ([(10, 0.5), (20, 0.9)], 20),
        ([(10, 0.5), (20, 1.0), (30, 4.0)], 20),
        ([(10, 1.5), (20, 0.9)], None),
    ],
)
def test_the_load_held_is_where_p95_comes_to_a_second(stairs: list[tuple[float, float]], load: float | None) -> None:
    assert held(stairs) == (load if load is None else pytest.approx(load))


def windows(**p95_s: float) -> Results:
    return {
        "night": {
            name: {"night": {"p95_s": value, "goodput": 10.0, "job_slowdown": 0.0}} for name, value in p95_s.items()
        }
    }


def test_two_that_the_model_tells_apart_must_be_in_its_order() -> None:
    model = windows(static=1.0, busyweight=0.5)
    assert disagreements(windows(static=0.8, busyweight=0.79), model) == []
    assert disagreements(windows(static=0.7, busyweight=0.8), model) == ["night, night: p95_s of static and busyweight"]
    assert disagreements(windows(static=0.7, busyweight=0.7), model) != []


def test_two_that_are_alike_in_the_model_may_be_in_any_order() -> None:
    assert disagreements(windows(static=0.5, busyweight=0.9), windows(static=0.50, busyweight=0.55)) == []


def test_jobs_are_told_apart_by_points_and_not_by_shares() -> None:
    model, real = windows(static=1, busyweight=1), windows(static=1, busyweight=1)
    for results, static, busyweight in ((model, 0.02, 0.001), (real, 0.0, 0.01)):
        results["night"]["static"]["night"]["job_slowdown"] = static
        results["night"]["busyweight"]["night"]["job_slowdown"] = busyweight
    assert disagreements(real, model) == []
    model["night"]["static"]["night"]["job_slowdown"] = 0.2
    assert disagreements(real, model) == ["night, night: job_slowdown of static and busyweight"]


def test_a_worker_is_busy_from_each_begin_to_each_end() -> None:
    times = [(1.0, 3.0), (4.0, float("inf"))]
    assert [busy_until(at, times) for at in (0.5, 2.0, 3.5, 6.0)] == [0, 1, 2, 4]


def test_every_row_of_the_tables_has_a_cell_for_each_head() -> None:
    results = {
        "real": {"scenarios": windows(static=1, busyweight=2), "capacity": {"dedicated": 10.0, "busyweight": 20.0}},
        "model": {"scenarios": windows(static=3, busyweight=4), "capacity": {"dedicated": 10.0, "busyweight": 25.0}},
    }
    head, rows = page.beside(results)
    assert [row[0] for row in rows] == ["night, static", "night, busyweight"]
    assert [row[3:5] for row in rows] == [["1.00", "3.00"], ["2.00", "4.00"]]
    assert all(len(row) == len(head) for row in rows)
    head, rows = page.capacity(results)
    assert rows[1] == ["busyweight", "20.0", "25.0", "2.00", "2.50"]
    assert len(rows[1]) == len(head)
