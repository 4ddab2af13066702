"""Whole Debians beside this machine's own: programs of other versions, run as if they were installed here.

    tree = trees.get("sid")                     # made where there is none, which takes some minutes
    tree.versions()["sidekiq"]                  # "8.1.7"
    with tree.popen(["sidekiq", ...]) as worker:    # worker.pid is the Sidekiq's own pid

A program of a tree has this machine's pids, network, /proc, /sys and /dev, the temporary directory, and this checkout,
each at its own path: agents see its workers, loopback and sockets below /tmp are shared. All else is the tree's, and
what it writes there is its own and gone with it. It runs in a private mount namespace, so nothing stays mounted.

Trees are kept in $XDG_CACHE_HOME/busyweight/trees, and made anew when they are a week old or other packages are asked
for. `python -m tests.matrix.trees` makes them all and prints what is in them. Root only.
It must never change a tree once it is made, nor leave half of one behind.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from .tree import Haproxy, Tree, TreeError

__all__ = ["MAY_BREAK", "RELEASES", "Haproxy", "Tree", "TreeError", "get", "get_all", "missing_for_trees"]

RELEASES = ("bookworm", "trixie", "sid")
MAY_BREAK = frozenset({"sid"})  # some days it cannot be installed; whoever uses it says so and goes on
WEEK_S = 7 * 24 * 3600

# The real parts, then what boots a machine, then what the package and the wheel need.
PACKAGES = (
    *("haproxy", "postgresql", "python3-rq", "python3-setproctitle", "redis-server", "ruby", "ruby-sidekiq"),
    *("dbus", "init", "iproute2", "procps"),
    *("python3-prometheus-client", "python3-psutil", "python3-rich", "python3-uvloop", "python3-venv"),
)

_MAKE = Path(__file__).with_name("make-tree")
_NAMESPACE = ["setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


@functools.cache
def get(release: str) -> Tree:
    """The tree of a release, made now where there is none that will do; TreeError with the reason and the remedy.

    Where a new one cannot be made, an old one of the same packages does, and standard error says so.
    """
    missing = missing_for_trees()
    if missing is not None:
        raise TreeError(missing)
    place = cache()
    (place / "mounted").mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256(repr((PACKAGES, _MAKE.read_bytes())).encode()).hexdigest()[:8]
    with _locked(place / f"{release}.lock"):
        kept = sorted(place.glob(f"{release}-{recipe}-*"))
        if not kept or time.time() - _made(kept[-1]) > WEEK_S:
            try:
                kept.append(_make(release, place, f"{release}-{recipe}-{int(time.time())}"))
            except TreeError as failed:
                if not kept:
                    raise
                age_days = (time.time() - _made(kept[-1])) / (24 * 3600)
                print(f"trees: the {release} of {age_days:.0f} days ago will have to do: {failed}", file=sys.stderr)
        _hold(kept[-1])
        for old in place.glob(f"{release}-*-*"):
            if old != kept[-1] and time.time() - _made(old) > WEEK_S:  # another branch may want other packages
                _remove(old)
    return Tree(release, kept[-1])


def get_all() -> tuple[list[Tree], dict[str, str]]:
    """Every tree that can be had, and for each of MAY_BREAK that cannot, why; TreeError where another cannot."""
    trees, reasons = [], {}
    with ThreadPoolExecutor() as pool:
        asked = {release: pool.submit(get, release) for release in RELEASES}
    for release, answer in asked.items():
        try:
            trees.append(answer.result())
        except TreeError as failed:
            if release not in MAY_BREAK:
                raise
            reasons[release] = str(failed)
    return trees, reasons


def cache() -> Path:
    """Where trees are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "busyweight/trees"


def missing_for_trees() -> str | None:
    """What keeps this machine from having trees, with the remedy; None when nothing does."""
    if os.geteuid() != 0:
        return "Debian trees need root: run the tests as root"
    if shutil.which("debootstrap", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        return "no debootstrap: type `tools/setup.sh test-matrix`"
    return None


def _made(tree: Path) -> int:
    return int(tree.name.rpartition("-")[2])


def _make(release: str, place: Path, name: str) -> Path:
    """Makes a tree beside the others and gives it its name when it is whole; TreeError with the log's end."""
    print(f"trees: making {place / name}", file=sys.stderr, flush=True)
    for left in place.glob(f"{release}.*.making"):  # by an interrupted run: nobody else has the lock
        shutil.rmtree(left)
    making = Path(tempfile.mkdtemp(prefix=f"{release}.", suffix=".making", dir=place))
    try:
        done = subprocess.run(
            [*_NAMESPACE, str(_MAKE), release, str(making / "tree"), *PACKAGES],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            end = "\n".join(done.stdout.splitlines()[-15:])
            raise TreeError(f"a Debian {release} cannot be made today:\n{end}")
        (making / "tree").rename(place / name)
    finally:
        shutil.rmtree(making)
    return place / name


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time, of all on this machine."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _hold(tree: Path) -> None:
    """Keeps others from removing a tree, as long as this process lives."""
    fcntl.flock(os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), fcntl.LOCK_SH)


def _remove(tree: Path) -> None:
    """Removes a tree that nobody holds."""
    held = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        gone = tree.with_name(f"{tree.name.partition('-')[0]}.old.making")  # so that half of it is never taken for one
        tree.rename(gone)
        shutil.rmtree(gone)
    except BlockingIOError:
        pass
    finally:
        os.close(held)


def main() -> int:
    """Makes every tree and prints what is in each."""
    try:
        trees, reasons = get_all()
    except TreeError as failed:
        print(f"trees: {failed}", file=sys.stderr)
        return 1
    for tree in trees:
        print(tree.release, tree.path)
        for name, version in tree.versions().items():
            print(f"  {name} {version}")
        for haproxy in tree.haproxies()[1:]:
            print(f"  haproxy {haproxy.version} ({haproxy.program})")
    for release, reason in reasons.items():
        print(f"{release}: {reason}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
