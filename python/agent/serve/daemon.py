"""Wires the parts of the running agent, and leads its life: start, signals, stop, watchdog.

It decides nothing about weights, reads no process and makes no words. Everything runs on one
event loop, except the scan, which has its own thread and tells its end by a descriptor.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent._scan import Answerer
from agent.config import values
from agent.config.schema import Config, warnings
from agent.operate.commands import ControlCommands
from agent.operate.orders import OverrideService
from agent.operate.state import StateFile
from agent.sampling import capacity
from agent.serve.exporter import Exporter
from agent.serve.listeners import Listeners
from agent.serve.pipeline import Pipeline, now_s, pool_title
from agent.serve.reload import Reloader
from agent.serve.report import Reporter
from agent.serve.server import ListenError, Server
from agent.serve.startup import FIRST_SAMPLE_S, StartError, in_numbers, open_scanner
from agent.serve.systemd import Notifier, Watchdog, passed_sockets
from agent.weight.pools import PoolReply

log = logging.getLogger("busyweight")


class Daemon:
    """The running agent. ``load`` reads the configuration anew, or raises ConfigError; ``file`` is
    where from, for people. ``state`` and ``control`` are the state directory and the control socket.

    Making one counts cores (which forks), loads programs into the kernel, and reads the state file;
    threads exist from the first scan on. Raises StartError.
    """

    def __init__(self, config: Config, load: Callable[[], Config], *, file: Path, state: Path, control: Path) -> None:
        config, gid = in_numbers(config)
        cores, self._cores_from = capacity.cores()
        self._state = "starting"
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._first_scan = asyncio.Event()
        self._at_once = asyncio.Event()
        self._reload_due = False
        self._reloading: asyncio.Task[None] | None = None
        self._notify = Notifier()
        self._watchdog = Watchdog(self._notify, self._well)
        answerer = Answerer(list(config.allow))
        self._pipeline = pipeline = Pipeline(
            config, cores, open_scanner(config), answerer, scanned=self._scanned, replied=self._replied
        )
        self._overrides = OverrideService(StateFile(state), now_s, pipeline.override, config.reply.release_for)
        pipeline.builder.override = self._overrides.reply
        self._server = Server(
            answerer,
            self._ask,
            wait_at_most_s=config.scan.wait_at_most,
            deadline_s=config.limits.deadline,
            awaiting_line_max=config.limits.max_connections,
        )
        self._listeners = Listeners(self._server)
        self._exporter = Exporter(lambda: reporter.report().as_values())
        self._reloader = Reloader(
            load,
            pipeline=pipeline,
            server=self._server,
            answerer=answerer,
            listeners=self._listeners,
            exporter=self._exporter,
            adopted=self._adopted,
        )
        reporter = Reporter(
            file=str(file),
            control=control,
            state=lambda: self._state,
            pipeline=pipeline,
            answerer=answerer,
            listeners=self._listeners,
            overrides=self._overrides,
            reloader=self._reloader,
        )
        self._commands = ControlCommands(
            control,
            gid,
            self._overrides,
            status=reporter.report,
            scanner=lambda: pipeline.sampler.scanner,
            pools=lambda: [name for name, _ in pipeline.builder.rules],
            reply=lambda: pipeline.replies[0].line if pipeline.replies else None,
        )

    async def run(self) -> None:
        """Serves until a signal. The first scan is done before a port is opened.

        Raises StartError.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop_signal)
        self._loop.add_signal_handler(signal.SIGUSR1, self._restart_signal)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload_signal)
        self._log_start()
        pipeline = self._pipeline
        try:
            pipeline.cache.poll()
            await self._wait(self._first_scan, min(pipeline.config.scan.give_up_after, FIRST_SAMPLE_S))
            pipeline.refresh()
            if not self._stop.is_set():
                self._open()
                await self._stop.wait()
                await self._release()
        finally:
            if self._reloading:
                self._reloading.cancel()
            await self._overrides.close()
            self._watchdog.close()
            self._commands.close()
            self._reloader.close()
            self._exporter.close()
            self._server.close()
            pipeline.close()
        log.info("stopped")

    def _open(self) -> None:
        """Polls and operators are answered from now on."""
        config = self._pipeline.config
        self._exporter.switch(self._exporter.prepare(config))
        try:
            self._listeners.open(config, passed_sockets())
        except ListenError as error:
            raise StartError(str(error)) from None
        self._state = "serving"
        self._overrides.begin()
        self._notify.ready()
        self._watchdog.begin()
        self._reload_if_due()

    async def _wait(self, event: asyncio.Event, timeout_s: float) -> None:
        """For an event, the stop signal, or the time."""
        waits = {self._loop.create_task(e.wait()) for e in (event, self._stop)}
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _well(self) -> bool:
        """Whether a restart would not make things better: the watchdog's question."""
        trouble = self._pipeline.trouble()
        if trouble is None and not self._server.answers():
            trouble = "polls are waiting, and nobody answers them"
        if trouble:
            log.error("%s", trouble)
        return trouble is None

    # What the parts tell each other.

    def _ask(self) -> bool:
        """A connection waits for its reply: the server's question whether to let it wait."""
        self._overrides.look()
        return self._pipeline.poll()

    def _scanned(self) -> None:
        self._first_scan.set()
        self._server.resume()

    def _replied(self, reply: PoolReply) -> None:
        self._notify.status(reply.line.decode().strip() or f"unknown: {reply.decision.reason}")

    def _adopted(self, config: Config, gid: int | None) -> None:
        self._overrides.configure(config.reply.release_for)
        self._commands.allow_group(gid)

    # Its life.

    def _stop_signal(self) -> None:
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    def _restart_signal(self) -> None:
        """systemd's RestartKillSignal: another agent follows at once, so there is no last word."""
        self._at_once.set()
        self._stop.set()

    def _reload_signal(self) -> None:
        self._reload_due = True
        # A reload opens ports, and none may be open before the first sample.
        if self._state != "starting":
            self._reload_if_due()

    def _reload_if_due(self) -> None:
        if self._reload_due and (self._reloading is None or self._reloading.done()):
            self._reloading = self._loop.create_task(self._reload())

    async def _reload(self) -> None:
        """One reload after the other: what changed while one was reading is taken by the next."""
        while self._reload_due:
            self._reload_due = False
            self._notify.reloading()
            try:
                await self._reloader.reload()
            finally:
                self._notify.ready()

    async def _release(self) -> None:
        """Says the last word for a while: the operator's if there is one."""
        reply = self._pipeline.config.reply
        release_s = reply.release_for if reply.on_stop == "release" else 0.0
        if self._overrides.owes_ready:
            release_s = max(release_s, self._overrides.ready_for_s)
        self._notify.stopping(release_s)
        if release_s == 0 or self._at_once.is_set():
            return
        self._state = "stopping"
        self._pipeline.stop()
        last = self._pipeline.replies[0].line.decode()
        log.info("stopping: says %r for %s", last, values.show_duration(release_s))
        self._server.resume()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._at_once.wait(), release_s)

    def _log_start(self) -> None:
        config, rules = self._pipeline.config, self._pipeline.builder.rules
        for warning in warnings(config):
            log.warning("%s", warning)
        self._pipeline.log_discovery()
        for pool, (name, rule) in zip(config.all_pools, rules, strict=True):
            shown = "the sum of all threads" if rule.capacity is None else f"{rule.capacity:g}"
            source = f" ({self._cores_from})" if pool.weight.capacity == "cores" else ""
            log.info("%s: capacity %s%s, counting %s", pool_title(name), shown, source, rule.count)
