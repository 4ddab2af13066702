"""Checks now and then, while the agent is polled, for workers that `workers.comm` hides, and logs them.

There is no timer: each new sample triggers the question whether a check is due. A check runs on its own thread, one
at a time; if one hangs, it is the last.
"""

import logging

from agent.config.words import pool_title
from agent.operate.threads import NoThreadError, run_in_thread
from agent.sampling.outsiders import Outsiders, described, look
from agent.serve.pipeline import Pipeline, now_s

log = logging.getLogger("busyweight")

# The first check comes soon after the start, later ones are far apart, because each reads every process's name and
# title.
FIRST_AFTER_S = 5.0
EVERY_S = 600.0


class OutsiderWatch:
    """Reports the hidden workers to ``pipeline``."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._due_s = now_s() + FIRST_AFTER_S
        self._looking = False

    def look(self) -> None:
        """A sample came: is a check due?"""
        if now_s() < self._due_s or self._looking:
            return
        self._due_s = now_s() + EVERY_S
        config = self._pipeline.config
        try:
            looking = run_in_thread(lambda: look(config))
        except NoThreadError:
            return
        self._looking = True

        def done() -> None:
            self._looking = False
            # A reload meanwhile may have changed the filter.
            if looking.exception() is None and config is self._pipeline.config:
                self._take(looking.result())

        looking.add_done_callback(lambda _: done())

    def again(self) -> None:
        """A reload may have changed the filter: check again soon."""
        self._due_s = now_s() + FIRST_AFTER_S

    def _take(self, found: Outsiders) -> None:
        former, self._pipeline.outsiders = self._pipeline.outsiders, found
        for i, pool in enumerate(self._pipeline.config.all_pools):
            hidden = found.of(i)
            if hidden and hidden != former.of(i):
                log.warning(
                    "%s: %s; workers.comm does not match that name, so they do not count",
                    pool_title(pool.name),
                    described(hidden),
                )
        if found != former:
            self._pipeline.refresh()
