"""The live view of the running agent in a terminal: polls its status once a second, shows it, and ends on q.

It only reads. The agent itself never imports it; it needs the rich library.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from agent.tools import client
from agent.tools.top.frame import Frame
from agent.tools.top.terminal import NoTerminalError, Terminal
from agent.tools.top.view import View

__all__ = ["NoTerminalError", "run"]

EVERY_S = 1.0


def run(control: Path, *, once: bool) -> None:
    """Shows the agent at ``control`` until q, Ctrl-C or SIGTERM; ``once``: one frame.

    Raises ClientError when the agent does not answer or goes away, and NoTerminalError; the
    terminal is as it was before.
    """
    try:
        _run(control, once=once)
    except KeyError as missing:
        raise client.ClientError(f"the agent's status lacks {missing}; is it another version?") from None


def _run(control: Path, *, once: bool) -> None:
    # Asked first, so that an error appears on the ordinary screen.
    views = _views(control)
    first = next(views)
    if once:
        time.sleep(EVERY_S)
        Console().print(Frame(next(views), hint=False))
        return
    with Terminal() as terminal:
        terminal.show(Frame(first, hint=True))
        while terminal.wait(EVERY_S):
            terminal.show(Frame(next(views), hint=True))


def _views(control: Path) -> Iterator[View]:
    """The agent's status and how often its pollers poll, whenever the caller asks for the next one."""
    before = None
    while True:
        status = client.ask(control, "status")["status"]
        workers = client.ask(control, "workers")
        view = View.of(status, workers["workers"], workers["count"], before)
        yield view
        before = view
