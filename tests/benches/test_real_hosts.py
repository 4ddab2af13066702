"""The hosts of the bench of real parts: their cgroups are created and removed, and errors are reported."""

import subprocess
from pathlib import Path

import pytest
from benches.fleet.parts import Arrangement
from benches.fleet.scenarios import BUSYWEIGHT, DEDICATED, STATIC
from benches.real.hosts import CORE, CORES, HOSTS, PERIOD_US, HostGroups, balancer, host_groups

from tests.real.parts import HAProxy


def quota_us(group: Path) -> int:
    """-1: none."""
    if (group / "cpu.max").exists():
        quota = (group / "cpu.max").read_text().split()[0]
        return -1 if quota == "max" else int(quota)
    return int((group / "cpu.cfs_quota_us").read_text())


def places(groups: list[HostGroups]) -> list[Path]:
    return [place for group in groups for place in (group.cpu.path, group.names.path)]


@pytest.mark.root("cgroups are made")
def test_a_host_may_take_all_its_cores_and_no_more() -> None:
    with host_groups() as groups:
        assert len(groups) == HOSTS
        assert quota_us(groups[3].cpu.path) == -1
        groups[3].limit(True)
        assert quota_us(groups[3].cpu.path) == round(CORES * CORE * PERIOD_US)
        groups[3].limit(False)
        assert quota_us(groups[3].cpu.path) == -1
        made = places(groups)
    assert not any(place.exists() for place in made)


@pytest.mark.root("cgroups are made")
def test_who_is_left_in_a_cgroup_is_killed_and_nobody_else() -> None:
    left, other = (subprocess.Popen(["sleep", "1000"]) for _ in range(2))
    try:
        with host_groups() as groups:
            groups[4].take(left.pid)
            assert groups[4].names.pids() == [left.pid]
            made = places(groups)
        assert left.wait(10) == -9
        assert other.poll() is None
        assert not any(place.exists() for place in made)
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


@pytest.mark.parametrize("arrangement", [DEDICATED, STATIC, BUSYWEIGHT], ids=lambda arrangement: arrangement.name)
def test_haproxy_takes_every_arrangement(tmp_path: Path, arrangement: Arrangement) -> None:
    text = balancer(arrangement, "127.0.0.1")
    HAProxy(tmp_path, text).check()
    assert text.count("\n    server ") + text.count("\nserver ") == (3 if arrangement is DEDICATED else 7) * (
        2 if arrangement is BUSYWEIGHT else 1
    )
