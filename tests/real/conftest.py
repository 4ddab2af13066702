"""Fixtures of the tests with real parts."""

import pytest

from .parts import sidekiqs_here


@pytest.fixture(scope="session")
def alone() -> None:
    """Tests that count every Sidekiq of the machine must find only their own."""
    others = sidekiqs_here()
    if others:
        pytest.fail(
            f"these tests count every Sidekiq of the machine, and others run here: {others}\n"
            "end them, or give the tests a /proc of their own: unshare --fork --pid --mount-proc make test"
        )
