"""From the sample to the wire: asks the cache for scans, builds the replies, passes them to the answerer.

Everything that a poll or the end of a scan triggers passes through here, in one direction. It opens no socket, reads
no file and decides no weight: `weight` decides, the answerer sends.
"""

import logging
from collections.abc import Callable

from agent import _scan
from agent._scan import Answerer, Scanner, Snapshot
from agent.config.schema import Config
from agent.config.words import pool_title
from agent.operate.status import History
from agent.sampling.cache import Cache, Pace
from agent.sampling.outsiders import Outsiders
from agent.sampling.sampler import Sampler
from agent.serve.counters import Replies, Scans
from agent.weight.policy import Decision, Rule
from agent.weight.pools import PoolReply, ReplyBuilder, ReplyOverride

log = logging.getLogger("busyweight")

# A scan that runs for longer will never finish.
STUCK_FOR_GOOD_S = 60.0


def now_s() -> float:
    """Seconds of the clock that dates samples; it continues during suspend, and never goes back."""
    return _scan.now_ns() / 1e9


def _pace(config: Config) -> Pace:
    scan = config.scan
    return Pace(scan.fresh_for, scan.min_gap, scan.max_duty / 100, scan.give_up_after)


class Pipeline:
    """``config`` is the current configuration, with numbers for users and groups; ``rules`` are its pools' rules on
    this machine.

    ``scanned`` is called when a scan has ended and its replies are set; ``replied`` with the default
    pool's reply when a reply has changed.
    """

    def __init__(
        self,
        config: Config,
        rules: list[tuple[str, Rule]],
        scanner: Scanner,
        answerer: Answerer,
        *,
        scanned: Callable[[], None],
        replied: Callable[[PoolReply], None],
    ) -> None:
        self.config = config
        self._answerer = answerer
        self._scanned = scanned
        self._replied = replied
        self.replies: list[PoolReply] = []
        self.outsiders = Outsiders()
        self.history = History(now_s)
        self.reply_counters = Replies(answerer)
        self.scan_counters = Scans()
        self.builder = ReplyBuilder(rules, config.reply.health)
        self.sampler = Sampler(scanner, self.sampled)
        self.cache: Cache[Snapshot] = Cache(_pace(config), now_s, self.sampler.start)
        self._built_from: Snapshot | None = None
        self._discovery = scanner.discovery
        self._logged: dict[str, str] = {}
        self._stopping = ""
        self._cpu_missed = False

    def poll(self) -> bool:
        """A connection waits for its reply. Returns whether waiting could lead to a better one."""
        if self._stopping:
            return False
        waiting = self.cache.poll()
        if self.builder.rising or (self._built_from is not None and self.cache.newest() is None):
            self.refresh()
        self._answerer.settle(0.0 if self.builder.rising else self.cache.settled_until())
        return waiting

    def sampled(self, snapshot: Snapshot | None, why: str) -> None:
        """A scan ended, with a snapshot, or without one and the reason."""
        self.scan_counters.note(snapshot)
        if snapshot is None:
            self.cache.failed(why, 0.0)
        else:
            self.cache.done(snapshot, snapshot.began_ns / 1e9, snapshot.cost_ns / 1e9)
            self._note_discovery(snapshot.discovery)
            self._note_cpu(snapshot)
        self.refresh()
        self._scanned()

    def override(self, override: ReplyOverride) -> None:
        """An operator's override starts or ends."""
        self.builder.override = override
        self.refresh()

    def stop(self, why: str) -> None:
        """Sends the last reply from now on: that the host is free, unless ``on_stop`` is ``keep``."""
        self._stopping = why
        self.refresh()

    def refresh(self) -> None:
        """Builds the current replies, and passes them on if they have changed."""
        if self._stopping and self.config.reply.on_stop == "release":
            # HAProxy keeps the last weight for ever, so the last one must be 100 %.
            self._hand_on(self.builder.everywhere(Decision(100, self._stopping, known=True), now_s()))
            return
        sample = self.cache.newest()
        no_sample_reason = "no sample yet" if self.cache.age() is None else "no sample of late"
        if self.cache.failure:
            no_sample_reason = f"scan failed: {self.cache.failure}"
        self._hand_on(
            self.builder.build(
                None if sample is None else sample.pools,
                now_s(),
                visible=sample is not None and sample.visible,
                whole=sample is not None and (sample.whole or self.config.scan.pid_namespace == "any"),
                hidden=[len(self.outsiders.of(i)) for i in range(len(self.builder.rules))],
                no_sample_reason=no_sample_reason,
            )
        )
        self._built_from = sample

    def _hand_on(self, replies: list[PoolReply]) -> None:
        if replies == self.replies:
            return
        self.replies = replies
        self.history.note(replies[0].decision.weight, [(reply.pool, reply.line) for reply in replies])
        self.reply_counters.note(replies)
        self._answerer.set_replies(replies[0].line, [(reply.pool, reply.line) for reply in replies[1:]])
        self._replied(replies[0])
        for reply in replies:
            self._log_state(reply)

    def adopt(self, config: Config, rules: list[tuple[str, Rule]], scanner: Scanner | None = None) -> None:
        """Continues with another configuration or other rules, and with another scanner if there is one."""
        if config is not self.config:
            self.outsiders = Outsiders()
        self.config = config
        if scanner is not None:
            self.sampler.close()
            self.sampler = Sampler(scanner, self.sampled)
            self._discovery = ""
            self.cache = Cache(_pace(config), now_s, self.sampler.start)
        self.cache.pace = _pace(config)
        builder = ReplyBuilder(rules, config.reply.health)
        builder.inherit(self.builder)
        self.builder = builder
        self._answerer.settle(0.0)
        if scanner is None:
            self.refresh()  # else the scanner's first sample leads to the replies

    def close(self) -> None:
        """Ends scanning."""
        self.sampler.close()

    def trouble(self) -> str | None:
        """A problem that only a restart can solve, or None."""
        stuck_s = self.cache.running_for()
        if stuck_s > max(STUCK_FOR_GOOD_S, 2 * self.config.scan.give_up_after):
            return f"the scan has hung for {stuck_s:.0f} s"
        sample = self.cache.newest()
        if not self._stopping and sample is not None and sample is not self._built_from:
            return "a new sample arrived, but no reply was built from it"
        return None

    # Logging.

    def log_discovery(self) -> None:
        """Logs how workers are found, and which better ways are not available."""
        scanner = self.sampler.scanner
        for refused in scanner.refused:
            log.info("not available: %s", refused)
        log.info("finding workers by %s", scanner.discovery)

    def _note_discovery(self, discovery: str) -> None:
        """Logs a line when the discovery has changed: a new scanner's, or the sweep as a fallback."""
        if discovery == self._discovery:
            return
        self._discovery = discovery
        if why := self.sampler.scanner.fallback():
            log.warning("%s; finding workers by %s from now on", why, discovery)
        else:
            self.log_discovery()

    def _note_cpu(self, snapshot: Snapshot) -> None:
        """Logs a line, once, if workers' CPU times cannot be read (a seccomp filter, a procfs without them)."""
        if snapshot.cpu_untold and not self._cpu_missed:
            self._cpu_missed = True
            log.warning(
                "cannot read the CPU time of %d workers, so only their titles count; "
                'workers.now = "titles" does the same for all workers',
                snapshot.cpu_untold,
            )

    def _log_state(self, reply: PoolReply) -> None:
        """Logs a line when a pool's state changes: known or not, full or not. Never one per poll, and none for
        overrides, which are logged elsewhere."""
        decision = reply.decision
        if reply.ordered:
            return
        state = "unknown: " + decision.reason if not decision.known else "full" if decision.weight == 0 else "free"
        if self._logged.get(reply.pool) != state:
            self._logged[reply.pool] = state
            level = logging.INFO if decision.known else logging.WARNING
            log.log(level, "%s: %s; replying %r", pool_title(reply.pool), state, reply.line.decode())
        else:
            log.debug("%s: replying %r", pool_title(reply.pool), reply.line.decode())
