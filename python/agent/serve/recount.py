"""Determines this machine's capacity again now and then: cores come and go, and so do cgroups' limits.

There is no timer: each new sample triggers the question whether a count is due. Counting runs on its own thread; if
it fails, the previous numbers stay.
"""

import logging

from agent.config.schema import Config
from agent.config.words import pool_title
from agent.operate.threads import NoThreadError, run_in_thread
from agent.serve.pipeline import Pipeline, now_s
from agent.serve.startup import Counted, Loaded, count
from agent.weight.policy import Rule

log = logging.getLogger("busyweight")

EVERY_S = 60.0


class Recount:
    """Keeps ``pipeline``'s rules up to date. ``loaded`` is the initial state."""

    def __init__(self, pipeline: Pipeline, loaded: Loaded) -> None:
        self._pipeline = pipeline
        self._counted = loaded.counted
        self._due_s = now_s() + EVERY_S
        self._counting = False
        self._fault = ""

    def log_start(self) -> None:
        """Logs what counts as full."""
        for line in _lines(self._pipeline.config, self._counted):
            log.info("%s", line)

    def take(self, loaded: Loaded) -> None:
        """A reload has counted again."""
        self._note(loaded.config, loaded.counted)

    def look(self) -> None:
        """A sample came: is a count due?"""
        if now_s() < self._due_s or self._counting:
            return
        self._due_s = now_s() + EVERY_S
        config = self._pipeline.config
        try:
            counting = run_in_thread(lambda: count(config))
        except NoThreadError:
            return
        self._counting = True

        def done() -> None:
            self._counting = False
            # A reload meanwhile has counted with its own configuration.
            if (error := counting.exception()) is None and config is self._pipeline.config:
                self._changed(config, counting.result())
            elif error is not None and str(error) != self._fault:
                self._fault = str(error)
                log.warning("cannot determine this machine's capacity: %s; keeping the previous one", error)

        counting.add_done_callback(lambda _: done())

    def _changed(self, config: Config, counted: Counted) -> None:
        self._fault = ""
        if counted.rules != self._counted.rules:
            self._note(config, counted)
            self._pipeline.adopt(config, counted.rules)

    def _note(self, config: Config, counted: Counted) -> None:
        former = set(_lines(config, self._counted)) if len(self._counted.rules) == len(counted.rules) else set()
        self._counted = counted
        for line in _lines(config, counted):
            if line not in former:
                log.info("%s", line)


def _lines(config: Config, counted: Counted) -> list[str]:
    return [
        f"{pool_title(name)}: capacity {_shown(rule)}"
        f"{f' ({counted.source})' if pool.weight.capacity == 'cores' else ''}, counting {rule.count}"
        for pool, (name, rule) in zip(config.all_pools, counted.rules, strict=True)
    ]


def _shown(rule: Rule) -> str:
    return "the sum of all threads" if rule.capacity is None else f"{rule.capacity:g}"
