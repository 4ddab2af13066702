"""OverrideService by themselves, where the record of them cannot be brought to the disk."""

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
    """Steady seconds that the test lets pass."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_without_a_thread_to_record_it_an_order_is_in_force_and_told_and_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
