"""Looks now and then, while somebody polls, for workers whom `workers.comm` hides, and says so.

Between looks there is no timer: a sample that comes asks whether it is time. A look has a thread of its own, one at
a time; one that hangs is the last.
"""

import logging

from agent.operate.threads import NoThreadError, run_in_thread
from agent.sampling.outsiders import Outsiders, described, look
from agent.serve.pipeline import Pipeline, now_s, pool_title

log = logging.getLogger("busyweight")

# The first look is soon after the start, the later ones far apart: one reads every process's name and title.
FIRST_AFTER_S = 5.0
EVERY_S = 600.0


class OutsiderWatch:
    """Keeps ``pipeline`` told of who is hidden."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._due_s = now_s() + FIRST_AFTER_S
        self._looking = False

    def look(self) -> None:
        """A sample came: is it time?"""
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
            # After a reload meanwhile others are looked for.
            if looking.exception() is None and config is self._pipeline.config:
                self._take(looking.result())

        looking.add_done_callback(lambda _: done())

    def again(self) -> None:
        """A reload: others may be looked for."""
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
