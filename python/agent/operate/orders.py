"""Carries out the operator's commands: records overrides, applies them to the replies, and watches their time.

It knows no sockets, no weights and no reply format. One change at a time; what HAProxy will keep is on disk before it
is sent. Its only timer exists only while something has an end.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from agent.config import values
from agent.config.words import os_error
from agent.operate import override
from agent.operate.override import Order, OverrideState
from agent.operate.state import StateFile
from agent.operate.status import OverrideStatus, StateFileStatus
from agent.weight.pools import ReplyOverride

log = logging.getLogger("busyweight")

# How long ``ready`` is sent if release_for is 0: it must reach the balancers.
READY_FOR_S = 5.0

# Timers have a resolution of milliseconds, and one that fires early would have to be set again.
TIMER_SLACK_S = 0.002

# The longest timer; after it, the timer is set again.
TIMER_MAX_S = 86400.0


def show_when(since_s: float, until_s: float | None) -> str:
    """From when to when, in this host's time zone, with its name. HAProxy's page has space for 128 characters in all,
    so the date appears once if it is the same."""
    since = time.localtime(since_s)
    shown = time.strftime("since %Y-%m-%d %H:%M:%S %Z", since)
    if until_s is not None:
        until = time.localtime(until_s)
        same_day = until[:3] == since[:3] and until.tm_zone == since.tm_zone
        shown += time.strftime(" until %H:%M:%S" if same_day else " until %Y-%m-%d %H:%M:%S %Z", until)
    return shown


class OverrideService:
    """``clock`` is monotonic, in seconds; ``changed`` is called with :attr:`reply` when that has changed."""

    def __init__(
        self, file: StateFile, clock: Callable[[], float], changed: Callable[[ReplyOverride], None], for_s: float
    ) -> None:
        self.file = file
        self._clock = clock
        self._changed = changed
        self._for_s = for_s
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._heard = False
        self._state = self._restore()
        self.reply = self._state.reply(show_when)

    def _restore(self) -> OverrideState:
        try:
            self.file.prepare()
        except OSError as error:
            self.file.write_error = f"{self.file.directory}: {os_error(error)}"
            log.warning("state directory %s; overrides will not survive a restart", self.file.write_error)
        record = self.file.load()
        if self.file.load_warning:
            log.warning("%s; %s", self.file.load_warning, override.WAY_OUT)
        # If nothing can be written now, the previous agent may not have been able to write its overrides either.
        in_doubt = bool(self.file.write_error or self.file.load_warning)
        state = override.restored(record, time.time(), self._clock(), in_doubt=in_doubt)
        if state.override:
            log.info("override still active: %s", state.override.note(show_when))
        elif record.override:
            log.info("override expired while the agent was down: %s", record.override.note(show_when))
        return state

    def configure(self, release_for_s: float) -> None:
        """How long each ``ready`` that starts from now on is sent."""
        self._for_s = release_for_s

    @property
    def ready_for_s(self) -> float:
        """How long the end of an override is sent to every poll, in seconds."""
        return self._for_s or READY_FOR_S

    @property
    def owes_ready(self) -> bool:
        """Whether a drain or maint in HAProxy must still be taken back."""
        return self._state.ready_owed

    def begin(self) -> None:
        """Polls are answered from now on."""
        self._heard = True
        self._take(self._state, self.ready_for_s)
        if self._state.record != self.file.recorded:
            self._tick()

    def look(self) -> None:
        """A poll came: is anything due? Timers stop while the machine is suspended."""
        next_s = self._state.next_s
        if next_s is not None and self._clock() >= next_s:
            self._tick()

    async def order(self, order: Order, who: str) -> dict[str, Any]:
        """Carries it out. Returns the result for the client."""
        async with self._turn:
            before = self._state
            ready_for_s = self.ready_for_s
            if order.kind == "ready":
                ready_for_s = order.for_s or ready_for_s
                state = before.readied()
                why = order.why and f": {order.why}"
                if before.override:
                    log.info("override ended by %s: %s%s", who, before.override.note(show_when), why)
                elif state.ready_owed and not before.ready_owed:
                    log.info("%s ends any override from before the start%s", who, why)
            else:
                asked = order.override(who, time.time())
                state = before.ordered(asked, self._clock())
                log.info("override active: %s", asked.note(show_when))
            await self._record(state)
            self._take(state, ready_for_s)
            return asdict(self.report()) | {"ended": before.override and before.override.note(show_when)}

    def report(self) -> OverrideStatus:
        """The active override, for status."""
        now_s, state = self._clock(), self._state
        left_s = None if state.expires_s is None else max(0.0, state.expires_s - now_s)
        ready_s = None if state.ready_until_s is None else max(0.0, state.ready_until_s - now_s)
        return OverrideStatus(
            override=None if state.override is None else override.as_value(state.override) | {"left_s": left_s},
            ready_owed=state.ready_owed,
            ready_left_s=ready_s,
            ready_in_doubt=state.in_doubt,
            state_file=StateFileStatus(str(self.file.path), self.file.write_error, self.file.load_warning),
        )

    async def close(self) -> None:
        """Stops the timer, and tries once more to write what could not be written."""
        async with self._turn:
            if self._timer:
                self._timer.cancel()
            if self.file.write_error and self._state.record != self.file.recorded:
                await self.file.save(self._state.record)

    def _tick(self) -> None:
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._end())

    async def _end(self) -> None:
        """Something may have expired."""
        async with self._turn:
            before = self._state
            after = before.ticked(self._clock())
            if before.override and not after.override:
                log.info("override expired: %s", before.override.note(show_when))
            if before.ready_owed and not after.ready_owed:
                # Sending it again would undo what others have set meanwhile.
                log.info("finished sending ready")
                self._take(after, self.ready_for_s)
                await self._record(after)
            else:
                await self._record(after)
                self._take(after, self.ready_for_s)

    async def _record(self, state: OverrideState) -> None:
        """Writes to disk what must outlive the agent, unless it is there already."""
        if state.record == self.file.recorded and not self.file.write_error:
            return
        await self.file.save(state.record)
        if self.file.write_error:
            log.warning("%s; the override is in memory only and would not survive a restart", self.file.write_error)

    def _take(self, state: OverrideState, ready_for_s: float) -> None:
        """Makes this the current state."""
        now_s = self._clock()
        self._state = state.heard(now_s, ready_for_s) if self._heard else state
        if self._state is not state:
            log.info("sending ready to every poll for %s", values.show_duration(ready_for_s))
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._state.next_s is not None and self._heard:
            delay_s = min(max(0.0, self._state.next_s - now_s) + TIMER_SLACK_S, TIMER_MAX_S)
            self._timer = self._loop.call_later(delay_s, self._tick)
        reply = self._state.reply(show_when)
        if reply != self.reply:
            self.reply = reply
            self._changed(reply)
