"""Scans by cgroup when cgroups cannot be opened, watched or read: the same count, or `unknown`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent._scan import Scanner, Selector
from tests.cgroups import cgroup, mount
from tests.farm import Farm, sidekiq_title
from tests.scarce import descriptors_left

COMM = "bwshort"


@pytest.fixture
def top() -> Iterator[Path]:
    with cgroup("busyweight-short") as top:
        yield top


@contextmanager
def workers_in(group: Path, count: int) -> Iterator[None]:
    group.mkdir()
    with Farm() as farm:
        (group / "cgroup.procs").write_text(str(farm.pid))
        farm.spawn(count, comm=COMM, title=sidekiq_title(1))
        yield


def by_cgroups(below: Path) -> Scanner:
    selector = Selector("sidekiq", comm=[COMM], cgroups=[f"/{below.relative_to(mount())}"])
    return Scanner("/proc", "cgroup", [selector], kept_max=10)


def seen(scan: Scanner) -> tuple[str, bool, int]:
    snapshot = scan.scan()
    return snapshot.discovery, snapshot.visible, snapshot.pools[0].workers


def test_a_tree_that_cannot_be_opened(top: Path) -> None:
    """Without free descriptors the state is unknown, not idle; the next scan that has them sees the tree."""
    with workers_in(top / "one", 2), workers_in(top / "other", 2):
        scan = by_cgroups(top)
        with descriptors_left(1):
            assert seen(scan) == ("cgroup", False, 0)
        assert seen(scan) == ("cgroup", True, 4)
        assert scan.fallback() is None


def test_a_tree_that_never_can_be_opened_whole_is_swept_in_the_end(top: Path) -> None:
    with workers_in(top / "one", 2), workers_in(top / "other", 2):
        scan = by_cgroups(top)
        with descriptors_left(2):
            assert {seen(scan) for _ in range(20)} == {("cgroup", False, 0)}
            assert seen(scan) == ("sweep", True, 4)
        assert "descriptors" in str(scan.fallback())


def test_kept_titles_make_room_for_cgroups_that_come(top: Path) -> None:
    with workers_in(top / "one", 8), ExitStack() as later:
        scan = by_cgroups(top)
        assert seen(scan) == ("cgroup", True, 8)
        for n in range(3):
            later.enter_context(workers_in(top / f"later{n}", 1))
        with descriptors_left(0):
            assert seen(scan) == ("cgroup", True, 11)
        assert scan.fallback() is None


FEW_WATCHES = """
import sys
from pathlib import Path
from tests.scan.test_scan_cgroup import by_cgroups, seen
Path("/proc/sys/user/max_inotify_watches").write_text(sys.argv[2])
scan = by_cgroups(Path(sys.argv[1]))
for _ in sys.stdin:
    print(seen(scan), flush=True)
"""


@pytest.mark.parametrize("watches", ["0", "2"])
def test_where_watches_run_short_cgroups_are_found_and_followed_all_the_same(watches: str, top: Path) -> None:
    limited = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", FEW_WATCHES, str(top), watches],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )

    def seen_there() -> str:
        assert limited.stdin is not None and limited.stdout is not None
        print(file=limited.stdin, flush=True)
        return limited.stdout.readline().strip()

    with limited:
        assert seen_there() == "('cgroup', True, 0)"
        with workers_in(top / "one", 2):
            assert seen_there() == "('cgroup', True, 2)"
            (top / "later").mkdir()
            assert seen_there() == "('cgroup', True, 2)"
            with workers_in(top / "later" / "below", 3):
                assert seen_there() == "('cgroup', True, 5)"
            assert seen_there() == "('cgroup', True, 2)"
        assert limited.stdin is not None
        limited.stdin.close()


def test_threaded_cgroups(top: Path) -> None:
    """Workers in them are found, whether or not their domain is configured."""
    threaded = top / "threaded"
    threaded.mkdir()
    with Farm() as farm:
        # The domain first: a cgroup may only become threaded below one.
        (top / "cgroup.procs").write_text(str(farm.pid))
        (threaded / "cgroup.type").write_text("threaded")
        (threaded / "cgroup.procs").write_text(str(farm.pid))
        farm.spawn(2, comm=COMM, title=sidekiq_title(1))
        assert seen(by_cgroups(top)) == ("cgroup", True, 2)
        scan = by_cgroups(threaded)
        assert seen(scan) == ("sweep", True, 2)
        assert scan.fallback() == "cgroup failed: reading cgroups: operation not supported"
