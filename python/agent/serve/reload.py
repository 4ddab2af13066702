"""Loads a new configuration into the running agent, as a whole or not at all.

First a plan, which may fail and then leaves nothing behind; then the change, which cannot fail. Listeners that stay
are not touched, so no poll is lost; a new scanner takes over when it has its first sample.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from agent._scan import Answerer, Scanner, Snapshot
from agent.config.advice import warnings
from agent.config.schema import Config
from agent.config.toml import ConfigError
from agent.operate.status import ReloadOutcome, ReloadTotals
from agent.operate.threads import NoThreadError, run_in_thread
from agent.sampling.sampler import Sampler
from agent.serve import logs
from agent.serve.exporter import Exporter, Prepared
from agent.serve.listeners import Listeners
from agent.serve.pipeline import Pipeline
from agent.serve.server import Address, ListenError, Server
from agent.serve.startup import FIRST_SAMPLE_S, Loaded, StartError, load_whole, open_scanner

log = logging.getLogger("busyweight")


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything that a new configuration needs, opened and ready. ``scanner`` is None if the current one will do."""

    loaded: Loaded
    opened: dict[Address, socket.socket]
    metrics: Prepared
    scanner: Scanner | None


class Reloader:
    """``load`` reads the configuration again, or raises ConfigError. ``adopted`` is called with the configuration
    once it is in use.

    ``outcome`` tells how the last reload went, ``totals`` how many succeeded.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        *,
        pipeline: Pipeline,
        server: Server,
        answerer: Answerer,
        listeners: Listeners,
        exporter: Exporter,
        adopted: Callable[[Loaded], None],
    ) -> None:
        self._load = load
        self._pipeline = pipeline
        self._server = server
        self._answerer = answerer
        self._listeners = listeners
        self._exporter = exporter
        self._adopted = adopted
        self._successor: Sampler | None = None
        self._late: asyncio.TimerHandle | None = None
        self.outcome: ReloadOutcome | None = None
        self.totals = ReloadTotals(ok=0, failed=0, taken=time.time())

    async def reload(self) -> None:
        """Loads the current configuration file. It is read on a separate thread: the disk or the name service may
        take long."""
        faults: list[str] = []
        late = asyncio.get_running_loop().call_later(
            FIRST_SAMPLE_S, log.warning, "still reading the new configuration; the previous one stays in use meanwhile"
        )
        try:
            loaded = await run_in_thread(lambda: load_whole(self._load))
            metrics = await self._exporter.prepare(loaded.config)
            try:
                plan = self._plan(loaded, metrics)
            except BaseException:
                self._exporter.discard(metrics)
                raise
            self._apply(plan)
        except ConfigError as error:
            faults = error.faults
        except (ListenError, StartError, NoThreadError) as error:
            faults = [str(error)]
        except Exception as error:
            log.exception("internal error")
            faults = [f"the agent failed: {error!r}"]
        finally:
            late.cancel()
        self._note(faults)

    def _note(self, faults: list[str]) -> None:
        now, totals = time.time(), self.totals
        self.outcome = ReloadOutcome(at=now, ok=not faults, faults=faults)
        for fault in faults:
            log.error("%s", fault)
        if faults:
            self.totals = ReloadTotals(totals.ok, totals.failed + 1, totals.taken)
            log.error("reload failed; the previous configuration stays in use")
        else:
            self.totals = ReloadTotals(totals.ok + 1, totals.failed, now)
            log.info("reloaded the configuration")

    def close(self) -> None:
        """Stops a scanner that has not taken over yet."""
        if self._late:
            self._late.cancel()
        if self._successor:
            self._successor.close()
            self._successor = None

    def _plan(self, loaded: Loaded, metrics: Prepared) -> _Plan:
        """Everything that may fail. If it does, what it opened is closed again."""
        config = loaded.config
        Answerer(list(config.allow))  # fails where the real one would
        opened = self._listeners.prepare(config)
        # A scanner that waits to take over has already changed what the kernel looks for.
        same = self._successor is None and _sought(config) == _sought(self._pipeline.config)
        try:
            # The last step that can fail, because it changes what the kernel looks for.
            scanner = None if same else open_scanner(config, self._pipeline.sampler.scanner)
        except Exception:
            for listener in opened.values():
                listener.close()
            raise
        return _Plan(loaded, opened, metrics, scanner)

    def _apply(self, plan: _Plan) -> None:
        config = plan.loaded.config
        logs.set_up(config.log.level, config.log.format)
        self._listeners.switch(config, plan.opened)
        self._exporter.switch(plan.metrics)
        self._answerer.configure(list(config.allow))
        self._server.awaiting_line_max = config.limits.max_connections
        self._server.wait_at_most_s = config.scan.wait_at_most
        self._server.deadline_s = config.limits.deadline
        for warning in warnings(config):
            log.warning("%s", warning)
        self.close()
        if plan.scanner is None:
            self._adopt(plan)
        else:
            # The previous scanner is used until the new one has its first sample.
            self._successor = Sampler(plan.scanner, lambda snapshot, why: self._succeed(plan, snapshot, why))
            self._successor.start()
            self._late = asyncio.get_running_loop().call_later(
                FIRST_SAMPLE_S,
                log.warning,
                "the new configuration still waits for its first sample; the previous one stays in use meanwhile",
            )

    def _succeed(self, plan: _Plan, snapshot: Snapshot | None, why: str) -> None:
        """The new scanner's first scan ended: it takes over."""
        if self._successor is None:
            return
        self.close()
        self._adopt(plan)
        self._pipeline.sampled(snapshot, why)

    def _adopt(self, plan: _Plan) -> None:
        loaded = plan.loaded
        self._pipeline.adopt(loaded.config, loaded.counted.rules, plan.scanner)
        self._adopted(loaded)


def _sought(config: Config) -> tuple[object, ...]:
    """What a scanner depends on."""
    return (
        config.scan.procfs,
        config.scan.discovery,
        [(pool.workers, pool.weight.count == "cpu", pool.weight.others) for pool in config.all_pools],
    )
