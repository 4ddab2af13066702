"""WORLD. The event loop, without TLS.

asyncio and uvloop import ssl, and with it OpenSSL: a sixth of the agent's memory, for TLS that
HAProxy's agent-checks cannot speak. So they are given stand-ins for it, and for asyncio's use of it,
while they are imported. Whoever imports ssl later gets the real one.
"""

import importlib
import sys
from collections.abc import Coroutine
from types import ModuleType
from typing import Any

_TLS = ("ssl", "asyncio.sslproto")


class _StandIn(ModuleType):
    """Has all the names that are looked up while importing: error classes and error numbers."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return 0 if name.startswith("SSL_") else type(name, (Exception,), {})


def _import_without_tls() -> None:
    if "ssl" in sys.modules:
        return
    for name in _TLS:
        sys.modules[name] = _StandIn(name)
    try:
        importlib.import_module("uvloop")
    except Exception:
        # A newer version that needs more of ssl gets the real module.
        for name in [name for name in sys.modules if name.partition(".")[0] in ("asyncio", "uvloop")]:
            del sys.modules[name]
    finally:
        for name in _TLS:
            sys.modules.pop(name, None)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs until ``main`` ends. To be imported before anything that imports asyncio."""
    import asyncio

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


_import_without_tls()
