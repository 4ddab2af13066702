"""The bench of real hosts: a machine that cannot run it, and the result of a run, if the machine has what it needs."""

import os
from pathlib import Path

import pytest

from tests.missing import need_module

need_module("matplotlib", ".venv/bin/.bench")

import numpy as np  # noqa: E402 - after the look whether it can be
from benches.fleet.run import REQUEST  # noqa: E402
from benches.real import __main__ as bench  # noqa: E402
from benches.real import hosts  # noqa: E402
from benches.real.hosts import CORES, JOB_HOSTS  # noqa: E402
from benches.real.run import Done  # noqa: E402


def test_where_no_cgroup_can_be_made_the_bench_says_so_and_exits_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benches.real", "--small"])
    monkeypatch.setattr(bench, "alone", lambda: None)
    monkeypatch.setattr(hosts, "_cpu_mount", lambda: Path("/proc"))
    monkeypatch.setattr("tests.cgroups.mount", lambda hierarchy="": Path("/proc"))
    assert bench.main() == 1
    assert "cannot create cgroups with a CPU quota here" in capsys.readouterr().err


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benches.real", "--small"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bench.main() == 1
    assert "needs root" in capsys.readouterr().err


def test_what_jobs_lose_is_of_the_time_in_which_they_ran() -> None:
    looks = np.arange(0, 10.5, 0.5)
    workers = len(JOB_HOSTS) * CORES
    done = 100 + np.maximum(0, looks - 5)[:, None] * np.full(workers, 0.5)  # from the fifth second on, at half pace
    requests = np.zeros(4, REQUEST)
    requests["at"], requests["latency"], requests["status"] = [1, 2, 6, 7], [0.1, 0.2, 0.3, 2.0], 200
    weights = np.column_stack([looks, np.where(looks < 6, 100, 0)])
    run = Done(requests, weights, looks, done, [[(5.0, float("inf"))]] * workers, {})
    found = run.as_run().window(2, 8, JOB_HOSTS)
    assert found["job_slowdown"] == pytest.approx(0.5)
    assert found["goodput"] == pytest.approx(2 / 6)
    assert found["weight_changes_per_host_minute"] == pytest.approx(10)
    assert run.as_run().window(0, 4, JOB_HOSTS)["job_slowdown"] == 0
