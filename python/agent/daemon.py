"""The one place that wires the parts: sampler, cache, speaker, server, signals, systemd.

It decides nothing about weights, reads no process and makes no words. Everything runs on one
event loop, except the scan, which has its own thread and tells its end by a descriptor.
"""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from agent import host, values
from agent._scan import Answerer, Scanner, Snapshot
from agent.cache import Cache, Pace
from agent.config import Config, ConfigError, warnings
from agent.policy import Verdict
from agent.sampler import Sampler
from agent.server import Address, ListenError, Server, open_listener, open_listeners
from agent.speaker import Said, Speaker
from agent.systemd import Notifier

log = logging.getLogger("busyweight")


class StartError(RuntimeError):
    """The agent cannot start. The text says why, on one line."""


def now_s() -> float:
    """Seconds of the clock in which samples are dated; it goes on in suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _pace(config: Config) -> Pace:
    scan = config.scan
    return Pace(scan.fresh_for, scan.min_gap, scan.max_duty / 100, scan.give_up_after)


class Daemon:
    """The running agent. ``load`` reads the configuration anew, or raises ConfigError."""

    def __init__(self, config: Config, load: Callable[[], Config]) -> None:
        self.config = config
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._notify = Notifier()
        self._stop = asyncio.Event()
        self._first = asyncio.Event()
        self._at_once = asyncio.Event()
        self._serving = False
        self._reload_due = False
        self._frozen = False
        self._states: dict[str, str] = {}
        self._listeners: dict[Address, socket.socket] = {}
        self._cores = host.cores()
        self.said: list[Said] = []
        self._speaks_of: Snapshot | None = None
        self.speaker = Speaker(config.all_pools, self._cores[0], config.reply.health)
        self.answerer = Answerer(list(config.allow), config.limits.max_connections)
        self._sampler = Sampler(_open_scanner(config), self._sampled)
        self._successor: Sampler | None = None
        self.cache: Cache[Snapshot] = Cache(_pace(config), now_s, self._sampler.start)
        self._server = Server(
            self.answerer, self._ask, wait_at_most_s=config.scan.wait_at_most, deadline_s=config.limits.deadline
        )

    async def run(self) -> None:
        """Serves until a signal. The first scan is done before a port is opened.

        Raises StartError.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop_signal)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload_signal)
        self._log_start()
        self.cache.poll()
        await self._wait(self._first, self.config.scan.give_up_after)
        self._speak()
        if not self._stop.is_set():
            try:
                self._listen(open_listeners(self.config.listen, self.config.limits.backlog))
            except ListenError as error:
                raise StartError(str(error)) from None
            self._notify.ready()
            self._serving = True
            if self._reload_due:
                self._reload()
            await self._stop.wait()
            await self._release()
        self._server.close()
        self._sampler.close()
        log.info("stopped")

    async def _wait(self, event: asyncio.Event, timeout_s: float) -> None:
        """For an event, the stop signal, or the time."""
        waits = {self._loop.create_task(e.wait()) for e in (event, self._stop)}
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    # From the sample to the wire.

    def _ask(self) -> bool:
        """Somebody polls: the server's question whether to wait."""
        if self._frozen:
            return False
        waiting = self.cache.poll()
        if self.speaker.rising or (self._speaks_of is not None and self.cache.newest() is None):
            self._speak()
        self.answerer.settle(0.0 if self.speaker.rising else self.cache.settled_until())
        return waiting

    def _sampled(self, snapshot: Snapshot | None, why: str) -> None:
        """A scan ended."""
        if snapshot is None:
            self.cache.failed(why, 0.0)
        else:
            self.cache.done(snapshot, snapshot.began_ns / 1e9, snapshot.cost_ns / 1e9)
        self._first.set()
        self._speak()
        self._server.go_on()

    def _speak(self) -> None:
        """Says what there is to say now, if it is something else than before."""
        if self._frozen:
            return
        sample = self.cache.newest()
        self._speaks_of = sample
        silence = "no sample yet" if self.cache.age() is None else "no sample of late"
        if self.cache.failure:
            silence = f"scan failed: {self.cache.failure}"
        self._say(
            self.speaker.speak(
                None if sample is None else sample.pools,
                now_s(),
                visible=sample is not None and sample.visible,
                silence=silence,
            )
        )

    def _say(self, said: list[Said]) -> None:
        if said == self.said:
            return
        self.said = said
        self.answerer.set_replies(said[0].line, [(s.pool, s.line) for s in said[1:]])
        self._notify.status(said[0].line.decode().strip() or f"unknown: {said[0].verdict.reason}")
        for each in said:
            self._log_state(each)

    # Its life.

    def _stop_signal(self) -> None:
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    def _reload_signal(self) -> None:
        # A reload opens ports, and none may be open before the first sample.
        if self._serving:
            self._reload()
        else:
            self._reload_due = True

    async def _release(self) -> None:
        """HAProxy keeps the last word for ever, so the last word is that the host is free."""
        self._notify.stopping()
        reply = self.config.reply
        if reply.on_stop == "release" and reply.release_for > 0:
            log.info("stopping: says 100%% for %s", values.show_duration(reply.release_for))
            self._say(self.speaker.everywhere(Verdict(100, "stopping", known=True)))
            self._frozen = True
            self._server.go_on()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._at_once.wait(), reply.release_for)

    def _listen(self, opened: dict[Address, socket.socket]) -> None:
        for address, listener in opened.items():
            self._listeners[address] = listener
            self._server.add(listener)
            log.info("listening on %s", values.show_address(listener.getsockname()[:2]))

    def _reload(self) -> None:
        """Takes a new configuration, whole or not at all."""
        self._notify.reloading()
        try:
            self._apply(self._load())
            log.info("reloaded the configuration")
        except ConfigError as error:
            for fault in error.faults:
                log.error("%s", fault)  # noqa: TRY400 - not a crash
            log.error("the configuration is wrong; the former one stays")  # noqa: TRY400
        except (ListenError, StartError) as error:
            log.error("%s; the former configuration stays", error)  # noqa: TRY400 - not a crash
        self._notify.ready()

    def _apply(self, config: Config) -> None:
        former = self.config
        # What can fail comes first, and undoes nothing when it does.
        added = [a for a in config.listen if a not in self._listeners]
        v4_ports = {port for host_, port in config.listen if ":" not in host_}
        opened: dict[Address, socket.socket] = {}
        try:
            for address in added:
                opened[address] = open_listener(address, config.limits.backlog, v6only=address[1] in v4_ports)
            workers = [pool.workers for pool in config.all_pools]
            same = workers == [pool.workers for pool in former.all_pools] and (
                (config.scan.procfs, config.scan.discovery) == (former.scan.procfs, former.scan.discovery)
            )
            scanner = None if same else _open_scanner(config, self._sampler.scanner)
        except (ListenError, StartError):
            for listener in opened.values():
                listener.close()
            raise
        for address in [a for a in self._listeners if a not in config.listen]:
            self._server.remove(self._listeners.pop(address))
        self._listen(opened)
        for listener in self._listeners.values():
            listener.listen(config.limits.backlog)
        self.answerer.configure(list(config.allow), config.limits.max_connections)
        self._server.wait_at_most_s = config.scan.wait_at_most
        self._server.deadline_s = config.limits.deadline
        for warning in warnings(config):
            log.warning("%s", warning)
        if self._successor:
            self._successor.close()
            self._successor = None
        if scanner is None:
            self._adopt(config)
        else:
            # The former scanner serves until the new one has its first sample.
            self._successor = Sampler(scanner, lambda snapshot, why: self._succeed(config, snapshot, why))
            self._successor.start()

    def _succeed(self, config: Config, snapshot: Snapshot | None, why: str) -> None:
        """The new scanner's first scan ended: it takes over."""
        if self._successor is None:
            return
        self._sampler.close()
        self._sampler, self._successor = Sampler(self._successor.scanner, self._sampled), None
        self.cache = Cache(_pace(config), now_s, self._sampler.start)
        self._adopt(config)
        self._sampled(snapshot, why)

    def _adopt(self, config: Config) -> None:
        self.config = config
        self.cache.pace = _pace(config)
        speaker = Speaker(config.all_pools, self._cores[0], config.reply.health)
        speaker.inherit(self.speaker)
        self.speaker = speaker
        self._speak()

    # What it tells people.

    def _log_start(self) -> None:
        scanner = self._sampler.scanner
        for warning in warnings(self.config):
            log.warning("%s", warning)
        for refused in scanner.refused:
            log.info("not to be had: %s", refused)
        for name, rule in self.speaker.rules:
            capacity = "the sum of all threads" if rule.capacity is None else f"{rule.capacity:g}"
            source = f" ({self._cores[1]})" if "cores" in [p.weight.capacity for p in self.config.all_pools] else ""
            log.info("%s: capacity %s%s, counting %s", _title(name), capacity, source, rule.count)

    def _log_state(self, said: Said) -> None:
        """A line when a pool's state changes: known or not, full or not. Never one per poll."""
        verdict = said.verdict
        state = "unknown: " + verdict.reason if not verdict.known else "full" if verdict.weight == 0 else "free"
        if self._states.get(said.pool) != state:
            self._states[said.pool] = state
            level = logging.INFO if verdict.known else logging.WARNING
            log.log(level, "%s: %s; says %r", _title(said.pool), state, said.line.decode())
        else:
            log.debug("%s: says %r", _title(said.pool), said.line.decode())


def _title(pool: str) -> str:
    return f"pool {pool}" if pool else "default pool"


def _open_scanner(config: Config, former: Scanner | None = None) -> Scanner:
    try:
        return host.open_scanner(config, former=former)
    except (OSError, ValueError) as error:
        raise StartError(str(error)) from None
