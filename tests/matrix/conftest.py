"""The Debians and the installed wheel of the test matrix, and the record of its results.

With BUSYWEIGHT_SUPPORT=FILE, the support page is written to that file at the end, if every cell was tried.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.dist.debian import wheel
from tests.real.conftest import alone
from tests.real.parts import Installed

from . import trees
from .support import Cell, Column, Results, page
from .trees import MAY_BREAK, RELEASES, Tree, TreeError

__all__ = ["alone"]  # a fixture

RESULTS = pytest.StashKey[Results]()


@pytest.fixture(scope="session", params=RELEASES)
def tree(request: pytest.FixtureRequest) -> Tree:
    """A Debian of each release; where one cannot be made that may break, its cells say so."""
    try:
        return trees.get(request.param)
    except TreeError as failed:
        if request.param in MAY_BREAK and trees.missing_for_trees() is None:
            pytest.skip(f"no {request.param} today: {str(failed).splitlines()[-1]}")
        pytest.fail(str(failed))


@pytest.fixture(scope="session")
def installed(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, with all extras, in a virtual environment of the tree's Python."""
    place = tmp_path_factory.mktemp(tree.release) / "venv"
    tree.run(["python3", "-m", "venv", place], deadline_s=300)
    tree.run(
        [place / "bin/pip", "install", "--quiet", "--only-binary=:all:", f"busyweight[all] @ file://{wheel()}"],
        deadline_s=300,
    )
    return Installed(tree, place / "bin/busyweight")


# -- the record ---------------------------------------------------------------------------------------------


def release_of(item: pytest.Item) -> str:
    """The release that a test is for."""
    assert isinstance(item, pytest.Function), item
    return str(item.callspec.params["tree"])


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RESULTS] = Results()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every cell that this run will try."""
    for item in items:
        for marker in item.iter_markers("cell"):
            config.stash[RESULTS].expect(Cell(*marker.args), release_of(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    for marker in item.iter_markers("cell"):
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        item.config.stash[RESULTS].record(Cell(*marker.args), release_of(item), report.outcome, reason)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = os.environ.get("BUSYWEIGHT_SUPPORT")
    results = session.config.stash[RESULTS]
    if file and results.whole():
        columns = [Column(release, versions_of(release)) for release in RELEASES]
        kernel = ".".join(os.uname().release.split(".")[:2])
        machine = f"Linux {kernel} on {os.uname().machine}"
        Path(file).write_text(page(results, columns, datetime.now(UTC).date(), machine))


def versions_of(release: str) -> dict[str, str]:
    """What is in a release's tree; nothing where there is none today."""
    try:
        tree = trees.get(release)
    except TreeError:
        return {}
    return tree.versions() | {"haproxy": ", ".join(haproxy.version for haproxy in tree.haproxies())}
