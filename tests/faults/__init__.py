"""Faults of every kind. `make test` runs a short form of each, `make soak` the long one: three hours."""

import os

SOAK = bool(os.environ.get("BUSYWEIGHT_SOAK"))


def amount(short: float, long: float) -> float:
    """Seconds, cases or rounds: in `make test`, and in `make soak`."""
    return long if SOAK else short
