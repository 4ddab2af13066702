"""PURE except for the screen's size: a view as lines of text that fit the screen, whatever its size."""

import os
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from agent.config.words import pool_prefix, quoted
from agent.tools import console
from agent.tools.top.view import View, columns

SPAN_S = 600.0  # as long as the agent keeps its history
BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*%#"
AXIS_LEN = 6
GRAPH_ROWS = 4
GRAPH_MIN_HEIGHT, GRAPH_MIN_WIDTH = 16, 30
POLLERS_MOST = 4
CELL_LEN = 40


def utf8() -> bool:
    """Whether the terminal shows UTF-8, according to locale(7)."""
    said = next((v for name in ("LC_ALL", "LC_CTYPE", "LANG") if (v := os.environ.get(name))), "")
    return "utf" in said.lower()


class Frame:
    """One screenful of a view, for rich to print. ``hint``: the last line tells how to quit."""

    def __init__(self, view: View, *, hint: bool) -> None:
        self._view = view
        self._hint = hint

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or options.size.height
        lines = compose(self._view, options.max_width, height - self._hint)
        for line in [*lines, *([Text("q quits", style="dim")] if self._hint else [])]:
            line.no_wrap, line.overflow = True, "ellipsis" if utf8() else "crop"
            line.rstrip()
            line.truncate(options.max_width)
            yield line


def compose(view: View, width: int, height: int) -> list[Text]:
    """At most ``height`` lines; what matters most comes first, and workers get the rest."""
    status = view.status
    lines = [_head(status, width), *_says(status), *_orders(status)]
    if height >= GRAPH_MIN_HEIGHT and width >= GRAPH_MIN_WIDTH:
        lines += _graph(status["history"], width)
    lines += [*_evidence(status), *_pollers(view)]
    # Some lines are reserved for workers.
    lines = lines[: max(1, height - 3)]
    return (lines + _workers(view, height - len(lines), width))[: max(1, height)]


def _head(status: dict[str, Any], width: int) -> Text:
    agent = status["agent"]
    left = f"busyweight {agent['version']}  pid {agent['pid']}  {agent['state']}  up {console.span(agent['uptime_s'])}"
    clock = time.strftime("%H:%M:%S", time.localtime(status["now"]))
    return Text(left + clock.rjust(max(0, width - len(left))) if width > len(left) + 9 else left, style="bold")


def _style(weight: int | None) -> str:
    if weight is None:
        return "magenta"
    return "red" if weight == 0 else "yellow" if weight < 50 else "green"


def _says(status: dict[str, Any]) -> Iterator[Text]:
    for pool in status["pools"]:
        title = "reply" if not pool["pool"] else pool["pool"]
        line = _row(title)
        line.append(quoted(pool["reply"]), style=_style(pool["weight"]))
        line.append(f" for {console.span(pool['said_for_s'])}" + ("" if pool["known"] else "; unknown"))
        yield line
    if not status["pools"]:
        yield _row("reply", "none yet: the first scan has not finished")


def _orders(status: dict[str, Any]) -> Iterator[Text]:
    if status["override"]:
        yield _row("override", console.show_override(status["override"], status["now"]), "reverse")
    else:
        yield _row("override", "none" if not status["ready_owed"] else "none; sending ready to every poll for a while")
    file, failure = status["state_file"], status["scanner"]["failure"]
    for warning in filter(None, (file["write_error"], file["load_warning"], failure)):
        yield _row("WARNING", warning, "red")


def _graph(history: list[Any], width: int) -> Iterator[Text]:
    """The default pool's weight of the last ten minutes."""
    blocks = BLOCKS if utf8() else ASCII_BLOCKS
    full = len(blocks) - 1
    parts = columns([tuple(point) for point in history], SPAN_S, width - AXIS_LEN)
    yield Text("")
    for row in reversed(range(GRAPH_ROWS)):
        label = {GRAPH_ROWS - 1: "100%", 0: "  0%"}.get(row, "")
        line = Text(label.ljust(width - len(parts)), style="dim")
        for weight in parts:
            if weight is None:
                line.append("?" if row == 0 else " ", style="magenta")
                continue
            filled = weight / 100 * GRAPH_ROWS * full - row * full
            # A weight of 0 is drawn too: as a line at the bottom.
            least = 1 if row == 0 else 0
            line.append(blocks[min(full, max(least, round(filled)))], style=_style(weight))
        yield line
    yield Text(" " * (AXIS_LEN - 1) + "-10 min" + "now".rjust(width - AXIS_LEN - 7), style="dim")


def _evidence(status: dict[str, Any]) -> Iterator[Text]:
    sample, scanner = status["sample"], status["scanner"]
    for pool in status["pools"]:
        if pool["counts"]:
            yield _row("workers", pool_prefix(pool["pool"]) + console.show_counts(pool["counts"]))
    if sample is None:
        yield _row("sample", "none recent enough to be used", "magenta")
    else:
        hidden = "" if sample["visible"] else "; processes cannot be seen"
        took = f"{console.span(sample['age_s'])} old, took {sample['took_ms']:.1f} ms, found by {sample['discovery']}"
        yield _row("sample", took + hidden, "" if sample["visible"] else "red")
    if scanner["hung_readers"]:
        yield _row("WARNING", f"{scanner['hung_readers']} readers hang in processes that block them", "red")


def _pollers(view: View) -> Iterator[Text]:
    polls = view.status["polls"]
    total = "" if view.paces is None else f"{sum(view.paces.values()):.1f}/s, "
    refused = f", {polls['refused']} refused" if polls["refused"] else ""
    yield _row("polls", f"{total}{polls['answered']} answered{refused}")
    paces = view.paces or {}
    pollers = sorted(polls["pollers"], key=lambda poller: (-paces.get(poller["address"], 0.0), poller["last_s"]))
    for poller in pollers[:POLLERS_MOST]:
        pace = f"{paces[poller['address']]:.1f}/s" if poller["address"] in paces else "-"
        line = _row("", f"{poller['address']:<22} {pace:>8}  last {console.span(poller['last_s'])} ago")
        if not poller["allowed"]:
            line.append("  refused", style="red")
        yield line
    if len(pollers) > POLLERS_MOST:
        yield _row("", f"and {len(pollers) - POLLERS_MOST} more", "dim")


def _workers(view: View, room: int, width: int) -> list[Text]:
    """A heading, and the busiest workers side by side, as many as fit."""
    if room < 2:
        return []
    if not view.workers:
        return [_row("", "no worker", "dim")]
    side = max(1, width // CELL_LEN)
    heading = f"{'PID':>8} {'BUSY':>11} {'AGE':>6}" + ("  POOL" if len(view.status["pools"]) > 1 else "")
    pooled = len(view.status["pools"]) > 1
    cells = [_worker(worker, *each, pooled=pooled) for worker in view.workers for each in _by_reading(worker)]
    # A worker that two pools read differently has two cells; the agent's list may end early.
    left_over = view.workers_count - len(view.workers)
    fits = (room - 1) * side
    if len(cells) > fits or left_over:
        fits -= side
        left_over += len(cells) - len(cells[:fits])
        cells = cells[:fits]
    rows = [Text(heading.ljust(CELL_LEN) * min(side, len(cells) or 1), style="bold")]
    for start in range(0, len(cells), side):
        row = Text()
        for cell in cells[start : start + side]:
            cell.truncate(CELL_LEN, pad=True)
            row.append_text(cell)
        rows.append(row)
    return [*rows, _row("", f"and {left_over} more", "dim")] if left_over else rows


def _by_reading(worker: dict[str, Any]) -> Iterator[tuple[Any, list[str]]]:
    """Each reading of a worker, and the pools that read it so."""
    readings = worker["readings"]
    for pool, reading in readings.items():
        alike = [name or "default" for name, other in readings.items() if other == reading]
        if alike[0] == (pool or "default"):
            yield reading, alike


def _worker(worker: dict[str, Any], reading: Any, pools: list[str], *, pooled: bool) -> Text:
    line = Text(f"{worker['pid']:>8} ")
    if isinstance(reading, list):
        busy, total, stopping = reading
        works = not busy and worker["works_for_ms"] > 0
        style = ("yellow" if works else "") if not busy else "red" if busy == total else "yellow"
        line.append(f"{f'{busy} of {total}':>11}", style=style)
        remarks = [*(["working now"] if works else []), *(["stopping"] if stopping else [])]
    else:
        line.append(f"{'unparsable':>11}", style="magenta")
        remarks = []
    remarks += ["forked copy"] if worker["copy"] else []
    remarks += ["quarantined"] if worker["quarantined"] else []
    shown = [*remarks, ", ".join(pools) if pooled else ""]
    line.append(f" {console.span(worker['age_ms'] / 1000):>6}  " + "  ".join(filter(None, shown)))
    return line


def _row(title: str, text: str = "", style: str = "") -> Text:
    line = Text(f"{title[:10]:<11}", style="dim") if title else Text(" " * 11)
    return line.append(text, style=style)
