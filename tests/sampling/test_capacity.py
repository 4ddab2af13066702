"""This machine's capacity, compared with what the machine itself reports, and with trees of cgroups."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from agent.sampling import capacity


def test_cores_are_the_machines_physical_ones() -> None:
    siblings = {path.read_text() for path in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/core_cpus_list")}
    assert siblings, "this machine does not tell its cores; there is nothing to compare with"
    cores, why = capacity.cores()
    assert cores == len(siblings)
    assert why == f"physical cores, of {os.sysconf('SC_NPROCESSORS_ONLN')} logical"


def test_the_agents_own_affinity_does_not_make_the_machine_look_small() -> None:
    program = "import os; from agent.sampling import capacity; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    program += "print(capacity.cores()[0])"
    narrow = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(narrow.stdout) == capacity.cores()[0]


def test_where_cores_are_not_known_logical_cpus_serve_and_it_is_said(tmp_path: Path) -> None:
    logical = os.sysconf("SC_NPROCESSORS_ONLN")
    why = "logical CPUs, as the number of physical cores is unknown"
    assert capacity.cores(tmp_path / "none", tmp_path / "none") == (logical, why)


def topology(home: Path, name: str, *siblings: str) -> Path:
    for cpu, text in enumerate(siblings):
        (home / f"cpu{cpu}/topology").mkdir(parents=True)
        if text:
            (home / f"cpu{cpu}/topology" / name).write_text(f"{text}\n")
    (home / "cpufreq").mkdir()
    return home


def test_siblings_are_one_core_and_who_is_offline_is_none(tmp_path: Path) -> None:
    cpus = topology(tmp_path, "core_cpus_list", "0,2", "1,3", "0,2", "1,3", "")
    assert capacity.cores(cpus, tmp_path / "none")[0] == 2


def test_an_older_kernel_has_another_name_for_siblings(tmp_path: Path) -> None:
    cpus = topology(tmp_path, "thread_siblings_list", "0-1", "0-1", "2-3", "2-3")
    assert capacity.cores(cpus, tmp_path / "none")[0] == 2


def test_without_a_topology_cpuinfo_tells(tmp_path: Path) -> None:
    """Two sockets of four cores, eight logical CPUs each."""
    lines = [f"processor\t: {n}\nphysical id\t: {n // 8}\ncpu cores\t: 4\nflags\t\t:\n" for n in range(16)]
    (tmp_path / "cpuinfo").write_text("\n".join(lines))
    assert capacity.cores(tmp_path / "none", tmp_path / "cpuinfo")[0] == 8


def test_what_cannot_be_read_now_is_not_the_same_as_not_known(tmp_path: Path) -> None:
    cpus = topology(tmp_path, "core_cpus_list", "0", "1")
    (cpus / "cpu1/topology/core_cpus_list").unlink()
    (cpus / "cpu1/topology/core_cpus_list").mkdir()
    with pytest.raises(IsADirectoryError):
        capacity.cores(cpus)


def test_a_list_of_cpus_that_hangs_stops_no_other_thread(tmp_path: Path) -> None:
    """As lxcfs may serve it: here the list is a pipe that nobody has written to yet."""
    cpus = topology(tmp_path, "core_cpus_list", "0,2", "1,3", "0,2", "1,3")
    os.mkfifo(cpus / "online")
    with ThreadPoolExecutor(1) as other:
        counted = other.submit(capacity.cores, cpus)
        (cpus / "online").write_text("0-2,8\n")
        assert counted.result() == (2, "physical cores, of 4 logical")


@pytest.mark.parametrize("online", ["", "none", "0-", "-3"])
def test_a_list_of_cpus_that_is_none_is_not_believed(tmp_path: Path, online: str) -> None:
    cpus = topology(tmp_path, "core_cpus_list", "0", "1")
    (cpus / "online").write_text(online)
    assert capacity.cores(cpus)[1] == f"physical cores, of {os.cpu_count()} logical"


def test_it_is_what_psutil_counts() -> None:
    assert capacity.cores()[0] == (psutil.cpu_count(logical=False) or psutil.cpu_count())


def mounted(home: Path, *kinds: str) -> Path:
    table = home / "mountinfo"
    lines = [
        f"31 24 0:27 / {home / kind.partition(':')[0]} rw - {kind.partition(':')[0]} none rw,{kind.partition(':')[2]}"
        for kind in kinds
    ]
    table.write_text("\n".join(lines))
    return table


def limits(home: Path, cgroup: str, **files: str) -> None:
    (home / cgroup).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (home / cgroup / name.replace("_", ".", 1)).write_text(f"{text}\n")


def test_the_quota_of_cgroups_is_the_sum_of_what_each_may_use_within_its_parents(tmp_path: Path) -> None:
    table, top = mounted(tmp_path, "cgroup2"), tmp_path / "cgroup2"
    limits(top, "jobs.slice", cpu_max="300000 100000")
    limits(top, "jobs.slice/a.service", cpu_max="200000 100000")
    limits(top, "jobs.slice/b.service", cpu_max="150000 100000")
    limits(top, "free.service", cpu_max="max 100000")
    assert capacity.quota(["jobs.slice/a.service"], table) == 2
    assert capacity.quota(["/jobs.slice/a.service/", "jobs.slice/b.service"], table) == 3
    assert capacity.quota(["jobs.slice/a.service", "jobs.slice/a.service/inner"], table) == 2
    assert capacity.quota(["jobs.slice/unlimited.service"], table) == 3
    for unlimited in (["free.service"], ["absent.service"], ["jobs.slice", "free.service"], ["/"], []):
        assert capacity.quota(unlimited, table) is None


def test_a_cpuset_limits_as_a_quota_does_and_version_1_has_its_own_files(tmp_path: Path) -> None:
    table = mounted(tmp_path, "cgroup:cpu,cpuset")
    limits(tmp_path / "cgroup", "a", cpu_cfs_quota_us="50000", cpu_cfs_period_us="100000")
    limits(tmp_path / "cgroup", "b", cpu_cfs_quota_us="-1", cpu_cfs_period_us="100000", cpuset_cpus="0")
    assert capacity.quota(["a"], table) == 0.5
    assert capacity.quota(["b"], table) == (1 if (os.cpu_count() or 1) > 1 else None)
