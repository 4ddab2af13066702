"""The one place that wires the parts: sampler, cache, speaker, server, signals, systemd.

It decides nothing about weights, reads no process and makes no words. Everything runs on one
event loop, except the scan, which has its own thread and tells its end by a descriptor.
"""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agent._scan import Answerer, Scanner, Snapshot
from agent.config import values
from agent.config.schema import Config, warnings
from agent.operate.commands import Desk
from agent.operate.orders import Orders
from agent.operate.state import StateFile
from agent.operate.status import History
from agent.sampling import host
from agent.sampling.cache import Cache, Pace
from agent.sampling.sampler import Sampler
from agent.serve.counters import Replies, Scans
from agent.serve.reload import Reloader, StartError, in_numbers, open_metrics, open_scanner
from agent.serve.server import Address, ListenError, Server, open_listeners
from agent.serve.systemd import Notifier, Watchdog, passed_sockets
from agent.weight.policy import Verdict
from agent.weight.pools import Said, Speaker

if TYPE_CHECKING:
    from agent.serve.metrics import Endpoint

log = logging.getLogger("busyweight")

# The first scan is waited for so long, and then polls are answered without; well within the
# unit's TimeoutStartSec=, or a scan that hangs would have the agent restarted for ever.
FIRST_SAMPLE_S = 10.0

# A scan that runs for longer will not end any more.
STUCK_FOR_GOOD_S = 60.0


def now_s() -> float:
    """Seconds of the clock in which samples are dated; it goes on in suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _pace(config: Config) -> Pace:
    scan = config.scan
    return Pace(scan.fresh_for, scan.min_gap, scan.max_duty / 100, scan.give_up_after)


class Daemon:
    """The running agent. ``load`` reads the configuration anew, or raises ConfigError;
    ``file`` is where from, for people. ``state`` and ``control`` are the state directory and
    the operators' socket. ``gid`` is the group that may command, if any."""

    def __init__(self, config: Config, load: Callable[[], Config], *, file: Path, state: Path, control: Path) -> None:
        self.config, self.gid = in_numbers(config)
        self.file = str(file)
        self.clock = now_s
        self.began_s = now_s()
        self.state = "starting"
        self._loop = asyncio.get_running_loop()
        self._notify = Notifier()
        self._watchdog = Watchdog(self._notify, self._well)
        self._stop = asyncio.Event()
        self._first = asyncio.Event()
        self._at_once = asyncio.Event()
        self._reload_due = False
        self._reloading: asyncio.Task[None] | None = None
        self._states: dict[str, str] = {}
        self.listeners: dict[Address, socket.socket] = {}
        self.sockets_passed = False
        self._cores = host.cores()
        self.said: list[Said] = []
        self.history = History(now_s)
        self._speaks_of: Snapshot | None = None
        self.speaker = Speaker(self.config.rules(self._cores[0]), config.reply.health)
        self.answerer = Answerer(list(config.allow))
        self.replies = Replies(self.answerer)
        self.scans = Scans()
        self.sampler = Sampler(open_scanner(self.config), self.sampled)
        self._found_by = self.sampler.scanner.discovery
        self.cache: Cache[Snapshot] = Cache(_pace(config), now_s, self.sampler.start)
        self.reloader = Reloader(self, load)
        self.orders = Orders(StateFile(state), now_s, self._speak, config.reply.release_for)
        self.desk = Desk(self, control)
        self.metrics: Endpoint | None = None
        self.server = Server(
            self.answerer,
            self._ask,
            wait_at_most_s=config.scan.wait_at_most,
            deadline_s=config.limits.deadline,
            owing_max=config.limits.max_connections,
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
        try:
            self.cache.poll()
            await self._wait(self._first, min(self.config.scan.give_up_after, FIRST_SAMPLE_S))
            self._speak()
            if not self._stop.is_set():
                self._open()
                await self._stop.wait()
                await self._release()
        finally:
            if self._reloading:
                self._reloading.cancel()
            await self.orders.close()
            self._watchdog.close()
            self.desk.close()
            self.reloader.close()
            self.publish(None)
            self.server.close()
            self.sampler.close()
        log.info("stopped")

    def _open(self) -> None:
        """Polls and operators are answered from now on."""
        passed = {listener.getsockname()[:2]: listener for listener in passed_sockets()}
        self.sockets_passed = bool(passed)
        self.publish(open_metrics(self, self.config))
        try:
            self.listen(passed or open_listeners(self.config.listen, self.config.limits.backlog))
        except ListenError as error:
            raise StartError(str(error)) from None
        self.warn_of_passed_sockets(self.config)
        self.state = "serving"
        self.orders.begin()
        self._notify.ready()
        self._watchdog.begin()
        self._reload_if_due()

    def _well(self) -> bool:
        """Whether a restart would not make things better: the watchdog's question."""
        stuck_s = self.cache.running_for()
        if stuck_s > max(STUCK_FOR_GOOD_S, 2 * self.config.scan.give_up_after):
            log.error("the scan has been stuck for %.0f s", stuck_s)
            return False
        if not self.server.answers():
            log.error("polls are waiting, and nobody answers them")
            return False
        sample = self.cache.newest()
        if self.state == "serving" and sample is not None and sample is not self._speaks_of:
            log.error("a sample came, and nothing was said of it")
            return False
        return True

    async def _wait(self, event: asyncio.Event, timeout_s: float) -> None:
        """For an event, the stop signal, or the time."""
        waits = {self._loop.create_task(e.wait()) for e in (event, self._stop)}
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    # From the sample to the wire.

    def _ask(self) -> bool:
        """Somebody polls: the server's question whether to wait."""
        self.orders.look()
        if self.state == "stopping":
            return False
        waiting = self.cache.poll()
        if self.speaker.rising or (self._speaks_of is not None and self.cache.newest() is None):
            self._speak()
        self.answerer.settle(0.0 if self.speaker.rising else self.cache.settled_until())
        return waiting

    def sampled(self, snapshot: Snapshot | None, why: str) -> None:
        """A scan ended."""
        self.scans.note(snapshot)
        if snapshot is None:
            self.cache.failed(why, 0.0)
        else:
            self.cache.done(snapshot, snapshot.began_ns / 1e9, snapshot.cost_ns / 1e9)
            self._note_discovery(snapshot.discovery)
        self._first.set()
        self._speak()
        self.server.go_on()

    def _speak(self) -> None:
        """Says what there is to say now, if it is something else than before."""
        self.speaker.word = self.orders.word
        if self.state == "stopping" and self.config.reply.on_stop == "release":
            # HAProxy keeps the last word for ever, so the last word is that the host is free.
            self._say(self.speaker.everywhere(Verdict(100, "stopping", known=True)))
            return
        sample = self.cache.newest()
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
        self._speaks_of = sample

    def _say(self, said: list[Said]) -> None:
        if said == self.said:
            return
        self.said = said
        self.history.note(said[0].verdict.weight, [(s.pool, s.line) for s in said])
        self.replies.note(said)
        self.answerer.set_replies(said[0].line, [(s.pool, s.line) for s in said[1:]])
        self._notify.status(said[0].line.decode().strip() or f"unknown: {said[0].verdict.reason}")
        for each in said:
            self._log_state(each)

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
        if self.state != "starting":
            self._reload_if_due()

    async def _release(self) -> None:
        """Says the last word for a while: the operator's if there is one."""
        reply = self.config.reply
        release_s = reply.release_for if reply.on_stop == "release" else 0.0
        if self.orders.owes_ready:
            release_s = max(release_s, self.orders.ready_for_s)
        self._notify.stopping(release_s)
        if release_s == 0 or self._at_once.is_set():
            return
        self.state = "stopping"
        self._speak()
        log.info("stopping: says %r for %s", self.said[0].line.decode(), values.show_duration(release_s))
        self.server.go_on()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._at_once.wait(), release_s)

    def listen(self, opened: dict[Address, socket.socket]) -> None:
        """Polls are answered on these, too."""
        for address, listener in opened.items():
            self.listeners[address] = listener
            self.server.add(listener)
            log.info("listening on %s", values.show_address(listener.getsockname()[:2]))

    def publish(self, endpoint: "Endpoint | None") -> None:
        """Prometheus may read here from now on, or nowhere."""
        former, self.metrics = self.metrics, endpoint
        if former and former is not endpoint:
            former.close()

    def warn_of_passed_sockets(self, config: Config) -> None:
        """Where the agent listens is systemd's to say, if it passed sockets."""
        if self.sockets_passed and set(self.listeners) != set(config.listen):
            log.warning("the sockets that systemd passed replace listen = %s", _show(config.listen))

    def addresses(self) -> list[Address]:
        """Where polls are answered."""
        return [listener.getsockname()[:2] for listener in self.listeners.values()]

    def _reload_if_due(self) -> None:
        if self._reload_due and (self._reloading is None or self._reloading.done()):
            self._reloading = self._loop.create_task(self._reload())

    async def _reload(self) -> None:
        """One reload after the other: what changed while one was reading is taken by the next."""
        while self._reload_due:
            self._reload_due = False
            self._notify.reloading()
            try:
                await self.reloader.reload()
            finally:
                self._notify.ready()

    def adopt(self, config: Config, gid: int | None, scanner: Scanner | None = None) -> None:
        """Goes on with another configuration, and with another scanner if there is one."""
        self.config, self.gid = config, gid
        if scanner is not None:
            self.sampler.close()
            self.sampler = Sampler(scanner, self.sampled)
            self._found_by = ""
            self.cache = Cache(_pace(config), self.clock, self.sampler.start)
        self.cache.pace = _pace(config)
        speaker = Speaker(config.rules(self._cores[0]), config.reply.health)
        speaker.inherit(self.speaker)
        self.speaker = speaker
        self.orders.configure(config.reply.release_for)
        self.desk.configure()
        self.answerer.settle(0.0)
        if scanner is None:
            self._speak()  # else the first sample, which comes with it, is spoken of

    # What it tells people.

    def _log_start(self) -> None:
        scanner = self.sampler.scanner
        for warning in warnings(self.config):
            log.warning("%s", warning)
        self._log_discovery(scanner)
        for pool, (name, rule) in zip(self.config.all_pools, self.speaker.rules, strict=True):
            capacity = "the sum of all threads" if rule.capacity is None else f"{rule.capacity:g}"
            source = f" ({self._cores[1]})" if pool.weight.capacity == "cores" else ""
            log.info("%s: capacity %s%s, counting %s", _title(name), capacity, source, rule.count)

    @staticmethod
    def _log_discovery(scanner: Scanner) -> None:
        for refused in scanner.refused:
            log.info("not to be had: %s", refused)
        log.info("finds workers by %s", scanner.discovery)

    def _note_discovery(self, found_by: str) -> None:
        """A line when another discovery has taken over: a new scanner's, or a sweep for want of it."""
        if found_by == self._found_by:
            return
        self._found_by = found_by
        if why := self.sampler.scanner.fallback():
            log.warning("%s; finds workers by %s from now on", why, found_by)
        else:
            self._log_discovery(self.sampler.scanner)

    def _log_state(self, said: Said) -> None:
        """A line when a pool's state changes: known or not, full or not. Never one per poll,
        and none of what is ordered, which has lines of its own."""
        verdict = said.verdict
        if said.ordered:
            return
        state = "unknown: " + verdict.reason if not verdict.known else "full" if verdict.weight == 0 else "free"
        if self._states.get(said.pool) != state:
            self._states[said.pool] = state
            level = logging.INFO if verdict.known else logging.WARNING
            log.log(level, "%s: %s; says %r", _title(said.pool), state, said.line.decode())
        else:
            log.debug("%s: says %r", _title(said.pool), said.line.decode())


def _show(addresses: Iterable[Address]) -> str:
    return ", ".join(values.show_address(address) for address in addresses)


def _title(pool: str) -> str:
    return f"pool {pool}" if pool else "default pool"
