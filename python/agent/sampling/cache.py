"""One scan in flight, a minimum gap between scans, and how old the sample is.

The rate limit is here. The clock and the scan are passed in; it knows nothing of weights, of
sockets, or of what a scan is. Without polls it does nothing at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Sample = TypeVar("Sample")


@dataclass(frozen=True, slots=True)
class Pace:
    """When to scan; seconds, and ``max_duty`` as a fraction of one core.

    fresh_for: for a sample older than this a poll waits; a sample older than half of it starts the next scan.
    min_gap: the minimum time between the starts of two scans.
    max_duty: after a scan that cost c, the next starts no sooner than c / max_duty.
    give_up_after: an older sample has expired.
    """

    fresh_for: float
    min_gap: float
    max_duty: float
    give_up_after: float


class Cache(Generic[Sample]):
    """The newest sample, and the decision whether to take another.

    ``start`` starts a scan, whose end is reported with :meth:`done` or :meth:`failed`. ``clock`` returns seconds, and
    continues while the machine is suspended.
    """

    def __init__(self, pace: Pace, clock: Callable[[], float], start: Callable[[], None]) -> None:
        self.pace = pace
        self._clock = clock
        self._start = start
        self._sample: Sample | None = None
        self._taken_s = 0.0
        self._began_s: float | None = None
        self._not_before_s = 0.0
        self.scanning = False
        self.scans = 0
        self.failure: str | None = None

    def poll(self) -> bool:
        """A poll came. Starts a scan if the sample is old enough and a scan may start.

        Returns whether waiting could bring a newer sample than one that is too old: a scan is
        running, and there is no sample within ``fresh_for``.
        """
        now_s = self._clock()
        age_s = now_s - self._taken_s if self._sample is not None else None
        if age_s is not None and 2 * age_s <= self.pace.fresh_for and self.pace.fresh_for > 0:
            return False
        if not self.scanning and now_s >= self._not_before_s:
            self.scanning = True
            self.scans += 1
            self._began_s = now_s
            self._start()
        return self.scanning and (age_s is None or age_s > self.pace.fresh_for or self.pace.fresh_for == 0)

    def done(self, sample: Sample, taken_s: float, cost_s: float) -> None:
        """The scan ended. ``taken_s`` is when it started."""
        self._sample, self._taken_s = sample, taken_s
        self.failure = None
        self._end(cost_s)

    def failed(self, why: str, cost_s: float) -> None:
        """The scan failed. The sample grows old."""
        self.failure = why
        self._end(cost_s)

    def _end(self, cost_s: float) -> None:
        self.scanning = False
        began_s = self._clock() if self._began_s is None else self._began_s
        self._not_before_s = began_s + max(self.pace.min_gap, cost_s / self.pace.max_duty)

    def running_for(self) -> float:
        """Seconds since the current scan started; 0 if none is running."""
        return self._clock() - self._began_s if self.scanning and self._began_s is not None else 0.0

    def settled_until(self) -> float:
        """Until that time :meth:`poll` does nothing, and the sample is valid."""
        if self._sample is None:
            return 0.0
        young_until_s = self._taken_s + self.pace.fresh_for / 2
        quiet_until_s = young_until_s if self.scanning else max(young_until_s, self._not_before_s)
        return min(quiet_until_s, self._taken_s + self.pace.give_up_after)

    def age(self) -> float | None:
        """How old the sample is, in seconds; None if there is none."""
        return None if self._sample is None else max(0.0, self._clock() - self._taken_s)

    def newest(self) -> Sample | None:
        """The newest sample, or None if there is none or it has expired."""
        age_s = self.age()
        return None if age_s is None or age_s > self.pace.give_up_after else self._sample
