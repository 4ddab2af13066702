"""Wires the parts of the running agent, and runs it: start, reload, watchdog, last reply.

It decides no weights, reads no processes and formats no replies. Everything runs on one event loop, except the scan,
which has its own thread and reports its end through a file descriptor.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from agent._scan import Answerer
from agent.config import values
from agent.config.advice import warnings
from agent.config.schema import Config
from agent.operate.commands import ControlCommands
from agent.operate.heard import HeardFile
from agent.operate.orders import OverrideService
from agent.operate.state import StateFile
from agent.serve import successor
from agent.serve.exporter import Exporter
from agent.serve.listeners import Listeners
from agent.serve.outsiders import OutsiderWatch
from agent.serve.pipeline import Pipeline, now_s
from agent.serve.recount import Recount
from agent.serve.reload import Reloader
from agent.serve.report import Reporter
from agent.serve.server import ListenError, Server
from agent.serve.signals import Signals
from agent.serve.startup import FIRST_SAMPLE_S, Loaded, StartError, open_scanner
from agent.serve.systemd import Notifier, Watchdog, passed_sockets
from agent.weight.pools import PoolReply

log = logging.getLogger("busyweight")


class Daemon:
    """The running agent. ``load`` reads the configuration again, or raises ConfigError; ``file`` is its path, for
    people. ``state`` and ``control`` are the state directory and the control socket.

    Creating one loads BPF programs into the kernel and reads the state file; threads exist from the first scan on.
    Raises StartError.
    """

    def __init__(
        self,
        loaded: Loaded,
        load: Callable[[], Config],
        signals: Signals,
        *,
        file: Path,
        state: Path,
        control: Path,
    ) -> None:
        config = loaded.config
        self._load = load
        self._signals = signals
        self._state = "starting"
        self._loop = asyncio.get_running_loop()
        self._first_scan = asyncio.Event()
        self._reload_due = False
        self._reloading: asyncio.Task[None] | None = None
        self._notify = Notifier()
        self._watchdog = Watchdog(self._notify, self._well)
        answerer = Answerer(list(config.allow))
        self._pipeline = pipeline = Pipeline(
            config,
            loaded.counted.rules,
            open_scanner(config),
            answerer,
            scanned=self._scanned,
            replied=self._replied,
        )
        self._recount = Recount(pipeline, loaded)
        self._outsiders = OutsiderWatch(pipeline)
        self._overrides = OverrideService(StateFile(state), now_s, pipeline.override, config.reply.release_for)
        pipeline.builder.override = self._overrides.reply
        self._heard = HeardFile(state)
        pipeline.builder.resume(None if self._overrides.file.write_error else self._heard.load())
        self._server = Server(
            answerer,
            self._ask,
            wait_at_most_s=config.scan.wait_at_most,
            deadline_s=config.limits.deadline,
            awaiting_line_max=config.limits.max_connections,
        )
        self._listeners = Listeners(self._server, self._notify)
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
            metrics=self._exporter.status,
        )
        self._commands = ControlCommands(
            control,
            loaded.gid,
            self._overrides,
            status=reporter.report,
            scanner=lambda: pipeline.sampler.scanner,
            pools=lambda: [name for name, _ in pipeline.builder.rules],
            reply=lambda: pipeline.replies[0].line if pipeline.replies else None,
        )

    async def run(self) -> None:
        """Serves until a signal. The first scan finishes before a port is opened.

        Raises StartError.
        """
        self._signals.on_reload(self._reload_signal)
        self._log_start()
        pipeline, stop = self._pipeline, self._signals.stop
        try:
            pipeline.cache.poll()
            await self._signals.wait(self._first_scan, min(pipeline.config.scan.give_up_after, FIRST_SAMPLE_S))
            pipeline.refresh()
            if not stop.is_set():
                await self._open()
                await stop.wait()
            if why := await self._last_word():
                await self._release(why)
            if not self._signals.restart:
                self._listeners.keep_no_more()
        finally:
            if self._reloading:
                self._reloading.cancel()
            await self._overrides.close()
            await self._heard.close()
            for part in (self._watchdog, self._notify, self._commands, self._reloader, self._exporter, self._server):
                part.close()
            pipeline.close()
        log.info("stopped")

    async def _open(self) -> None:
        """Polls and operators are answered from now on."""
        self._exporter.switch(await self._exporter.prepare(self._pipeline.config))
        self._listen()
        self._state = "serving"
        self._notify.ready()
        self._watchdog.begin()
        self._reload_if_due()

    def _listen(self) -> None:
        try:
            self._listeners.open(self._pipeline.config, passed_sockets())
        except ListenError as error:
            raise StartError(str(error)) from None
        self._overrides.begin()

    def _well(self) -> bool:
        """Whether the agent is healthy, for the watchdog: a restart would not help."""
        trouble = self._pipeline.trouble()
        if trouble is None and not self._server.answers():
            trouble = "polls are waiting and get no reply"
        if trouble:
            log.error("%s", trouble)
        return trouble is None

    # Callbacks between the parts.

    def _ask(self) -> bool:
        """A connection waits for its reply; the server asks whether to let it wait."""
        self._overrides.look()
        return self._pipeline.poll()

    def _scanned(self) -> None:
        self._first_scan.set()
        self._server.resume()
        self._recount.look()
        self._outsiders.look()

    def _replied(self, reply: PoolReply) -> None:
        self._heard.note(self._pipeline.builder.heard())
        self._notify.status(reply.line.decode().strip() or f"unknown: {reply.decision.reason}")

    def _adopted(self, loaded: Loaded) -> None:
        self._recount.take(loaded)
        self._outsiders.again()
        self._overrides.configure(loaded.config.reply.release_for)
        self._commands.allow_group(loaded.gid)

    # Reload and stop.

    def _reload_signal(self) -> None:
        self._reload_due = True
        # A reload opens ports, and none may be open before the first sample.
        if self._state != "starting":
            self._reload_if_due()

    def _reload_if_due(self) -> None:
        if self._reload_due and (self._reloading is None or self._reloading.done()):
            self._reloading = self._loop.create_task(self._reload())

    async def _reload(self) -> None:
        """One reload at a time: what changed while one was reading is loaded by the next."""
        while self._reload_due:
            self._reload_due = False
            self._notify.reloading()
            try:
                await self._reloader.reload()
            finally:
                self._notify.ready()

    async def _last_word(self) -> str:
        """Why HAProxy must not keep the last weight; empty if another agent follows at once."""
        if not self._signals.restart:
            return "stopping"
        return await successor.why_release(self._load, self._listeners.to_follow())

    async def _release(self, why: str) -> None:
        """Sends the last reply for a while: the override's, if one is active."""
        reply, at_once = self._pipeline.config.reply, self._signals.at_once
        release_s = reply.release_for if reply.on_stop == "release" else 0.0
        if self._overrides.owes_ready:
            release_s = max(release_s, self._overrides.ready_for_s)
        self._notify.stopping(release_s)
        if release_s == 0 or at_once.is_set():
            return
        if self._state == "starting":
            # HAProxy still has the last weight of a previous agent.
            self._listen()
        self._state = "stopping"
        self._pipeline.stop(why)
        last = self._pipeline.replies[0].line.decode()
        log.info("stopping: replying %r for %s", last, values.show_duration(release_s))
        self._server.resume()
        with suppress(TimeoutError):
            await asyncio.wait_for(at_once.wait(), release_s)

    def _log_start(self) -> None:
        for warning in warnings(self._pipeline.config):
            log.warning("%s", warning)
        self._pipeline.log_discovery()
        self._recount.log_start()
