"""OverrideService alone, when its record cannot be written to disk."""

import asyncio
import threading
from pathlib import Path

import pytest

from agent.operate.orders import OverrideService
from agent.operate.override import Order
from agent.operate.state import StateFile
from tests.scarce import no_thread

DEADLINE_S = 10.0
DRAIN = Order("drain", None, 60.0, "")


class Clock:
    """A monotonic clock that the test advances."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_no_thread_to_record_an_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The override is active all the same, its record's failure is reported, and it expires in time."""

    async def go() -> None:
        clock, said = Clock(), asyncio.Queue[str]()
        orders = OverrideService(StateFile(tmp_path), clock, lambda reply: said.put_nowait(reply.admin), 5.0)
        orders.begin()
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        told = await orders.order(DRAIN, "alice")
        assert said.get_nowait() == "drain"
        assert told["override"]["kind"] == "drain"
        assert told["state_file"]["write_error"] == f"{tmp_path}: cannot start a thread"
        clock.now_s += 61
        orders.look()
        assert await asyncio.wait_for(said.get(), DEADLINE_S) == "ready"
        await orders.close()

    asyncio.run(go())
