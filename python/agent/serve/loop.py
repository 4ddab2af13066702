"""WORLD. The event loop, without TLS.

asyncio and uvloop import ssl, and with it OpenSSL: a sixth of the agent's memory, for TLS that HAProxy's agent-checks
do not support. So they get stand-ins for it, and for asyncio's use of it, while they are imported. A later import of
ssl gets the real module: prometheus-client does that, so with metrics on the agent has it.
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


class NoLoopError(Exception):
    """The event loop cannot be created. The text says why, on one line."""


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs ``main`` to its end. This module must be imported before asyncio. Raises NoLoopError."""
    import asyncio

    import uvloop

    begun = done = False

    async def begin() -> None:
        nonlocal begun, done
        begun = True
        await main
        done = True

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(begin())
    # uvloop fails to close an event loop that it could not create.
    except (OSError, RuntimeError) as error:
        if done:
            return  # the process ends now anyway
        if begun:
            raise
        main.close()
        why = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(why, "strerror", None) or why
        raise NoLoopError(f"cannot start: cannot create the event loop: {reason}") from None


_import_without_tls()
