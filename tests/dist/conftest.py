"""The Debian that the package is installed in."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted.host import missing_for_boot

from .debian import INSIDE, REPOSITORY, deb, in_debian


@pytest.fixture(scope="session")
def tree() -> Iterator[Path]:
    """A fresh Debian 12 in which apt has the package's dependencies at hand, and none of them is installed."""
    missing = missing_for_boot()
    assert missing is None, missing
    with tempfile.TemporaryDirectory(prefix="busyweight-dist-", dir="/var/tmp") as place:
        package = INSIDE / deb().relative_to(REPOSITORY)
        script = f"apt-get update >&2 && apt-get install --yes --download-only {package} >&2"
        in_debian(script, "init", "dbus", keep=Path(place) / "tree")
        yield Path(place) / "tree"
