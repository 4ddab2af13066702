"""Gives the tests below here a booted machine each module has for itself, or says what is missing for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.missing import missing

from .host import missing_for_boot
from .machine import Machine
from .software import missing_for_agent


@pytest.fixture(scope="module", autouse=True)
def bootable() -> None:
    """All tests here boot a machine."""
    if lacking := missing_for_boot():
        missing(lacking)


@pytest.fixture(scope="module")
def booted(bootable: None) -> Iterator[Machine]:
    """A machine under its own systemd, with the project's units and nothing else of the project."""
    with Machine() as machine:
        machine.install_units()
        yield machine


@pytest.fixture(scope="module")
def with_agent(booted: Machine) -> Machine:
    """The same with the real agent behind the units."""
    if lacking := missing_for_agent():
        missing(lacking)
    booted.install_agent()
    return booted
