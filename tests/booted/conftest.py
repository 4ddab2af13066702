"""Gives the tests below here a booted machine each module has for itself, or says what is missing for one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .host import missing_for_boot
from .machine import Machine
from .software import missing_for_agent


def _demand(missing: str | None) -> None:
    if missing is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(missing)  # there, a machine that cannot be had is a fault of the set-up
    pytest.skip(missing)


@pytest.fixture(scope="module")
def booted() -> Iterator[Machine]:
    """A machine under its own systemd, with the project's units and nothing else of the project."""
    _demand(missing_for_boot())
    with Machine() as machine:
        machine.install_units()
        yield machine


@pytest.fixture(scope="module")
def with_agent(booted: Machine) -> Machine:
    """The same with the real agent behind the units."""
    _demand(missing_for_agent())
    booted.install_agent()
    return booted
