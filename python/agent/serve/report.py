"""Fills the agent's status from its parts. It changes none of them."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from agent import _scan
from agent._scan import Answerer
from agent.config import values
from agent.operate import status as told
from agent.operate.orders import OverrideService
from agent.operate.status import Status
from agent.serve.listeners import Listeners
from agent.serve.pipeline import Pipeline, now_s
from agent.serve.reload import Reloader


class Reporter:
    """``state`` tells whether the agent is starting, serving or stopping; ``file`` is its configuration file, and
    ``control`` its control socket."""

    def __init__(
        self,
        *,
        file: str,
        control: Path,
        state: Callable[[], str],
        pipeline: Pipeline,
        answerer: Answerer,
        listeners: Listeners,
        overrides: OverrideService,
        reloader: Reloader,
        metrics: Callable[[], told.MetricsStatus],
    ) -> None:
        self._file = file
        self._control = control
        self._state = state
        self._pipeline = pipeline
        self._answerer = answerer
        self._listeners = listeners
        self._overrides = overrides
        self._reloader = reloader
        self._metrics = metrics
        self._began_s = now_s()

    def report(self) -> Status:
        """The agent's whole status."""
        pipeline, overrides = self._pipeline, self._overrides.report()
        config = pipeline.config
        reply = pipeline.replies[0] if pipeline.replies else None
        decision = None if reply is None else reply.decision
        return Status(
            agent=told.AgentStatus(
                _scan.__version__, os.getpid(), uptime_s=round(now_s() - self._began_s, 1), state=self._state()
            ),
            now=time.time(),
            reply=None if reply is None else reply.line.decode(),
            weight=None if decision is None else decision.weight,
            reason=None if decision is None else decision.reason,
            known=None if decision is None else decision.known,
            pools=self._pools(),
            sample=self._sample(),
            scanner=self._scanner(),
            override=overrides.override,
            ready_owed=overrides.ready_owed,
            ready_left_s=overrides.ready_left_s,
            ready_in_doubt=overrides.ready_in_doubt,
            state_file=overrides.state_file,
            config=told.ConfigStatus(self._file, self._reloader.outcome, self._reloader.totals, config.reply.health),
            control=told.ControlStatus(str(self._control), config.control.group),
            metrics=self._metrics(),
            polls=self._polls(),
            history=pipeline.history.weights(),
        )

    def _pools(self) -> list[told.PoolStatus]:
        pipeline = self._pipeline
        sample = pipeline.cache.newest()
        found = sample.pools if sample else []
        return [
            told.PoolStatus(
                pool=reply.pool,
                reply=reply.line.decode(),
                weight=reply.decision.weight,
                reason=reply.decision.reason,
                known=reply.decision.known,
                said_for_s=round(pipeline.history.said_for(reply.pool), 1),
                count=rule.count,
                capacity=rule.capacity,
                counts=told.counts(found[i]) if i < len(found) else None,
                hidden=len(pipeline.outsiders.of(i)),
            )
            for i, (reply, (_, rule)) in enumerate(zip(pipeline.replies, pipeline.builder.rules, strict=False))
        ]

    def _sample(self) -> told.SampleStatus | None:
        cache = self._pipeline.cache
        sample, age_s = cache.newest(), cache.age()
        if sample is None or age_s is None:
            return None
        return told.SampleStatus(
            age_s=round(age_s, 3),
            visible=sample.visible,
            whole=sample.whole,
            discovery=sample.discovery,
            processes=sample.processes,
            rechecked=sample.rechecked,
            vanished=sample.vanished,
            unreadable=sample.unreadable,
            cpu_untold=sample.cpu_untold,
            took_ms=round(sample.took_ns / 1e6, 3),
            cost_ms=round(sample.cost_ns / 1e6, 3),
        )

    def _scanner(self) -> told.ScannerStatus:
        cache, scanner = self._pipeline.cache, self._pipeline.sampler.scanner
        return told.ScannerStatus(
            scans=cache.scans,
            scanning=cache.scanning,
            for_s=round(cache.running_for(), 3),
            age_s=cache.age(),
            ended=asdict(self._pipeline.scan_counters),
            failure=cache.failure,
            refused=scanner.refused,
            fallback=scanner.fallback(),
            hung_readers=scanner.hung_readers(),
        )

    def _polls(self) -> told.PollsStatus:
        totals = self._answerer.totals()
        pollers = sorted(self._answerer.pollers(), key=lambda poller: -poller[2])
        return told.PollsStatus(
            listening=[values.show_address(address) for address in self._listeners.addresses()],
            answered=totals.answered,
            refused=totals.refused,
            disconnected=totals.disconnected,
            timed_out=totals.timed_out,
            evicted=totals.evicted,
            no_fds=totals.no_fds,
            replies=[
                told.RepliesStatus(pool, outcome, replies)
                for (pool, outcome), replies in self._pipeline.reply_counters.sums().items()
            ],
            pollers=[
                told.PollerStatus(address, polls, last_s=round(now_s() - last_ns / 1e9, 1), allowed=allowed)
                for address, polls, last_ns, allowed in pollers
            ],
        )
