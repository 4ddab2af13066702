"""The plot of the polls bench: CPU per reply and latency, one bar per contestant, an SVG for light and dark pages.

The SVG must need no network: no fonts, no scripts.
"""

from pathlib import Path
from typing import Any

from benches.harness import RESULTS
from benches.svg import BLUE, FAINT, GREY, INK, PAGE, plt, save

_BARS = {
    "c": ("C: accept, send, close", GREY),
    "c-recv": ("C, reads first", GREY),
    "c-segment": ("C, one segment", GREY),
    "busyweight": ("busyweight", BLUE),
    "busyweight-sweeping": ("… sweeping 10,000 processes", BLUE),
    "busyweight-hung": ("… with a reader that hangs", BLUE),
    "uvloop": ("uvloop's protocol", GREY),
    "asyncio": ("asyncio's protocol", GREY),
}


def plot_polls(measured: dict[str, Any], path: Path = RESULTS / "polls.svg") -> Path:
    """Draws medians with 64 polls at once; the thin line is the range of the middle half of the rounds."""
    polled = {**measured["swept"], **measured["64 at once"]}
    results = {name: polled[name] for name in _BARS}
    figure, panels = plt.subplots(1, 2, figsize=(10.2, 4.0), sharey=True, facecolor=PAGE)
    _bars(panels[0], results, "cpu_us_per_reply", scale=1, unit="µs", title="CPU time of one reply")
    _bars(panels[1], results, "p99_us", scale=1e-3, unit="ms", title="Latency: median, and 99 of 100 within")
    for row, numbers in enumerate(results.values()):
        median_ms = numbers["p50_us"].median / 1e3
        panels[1].plot([median_ms, median_ms], [row - 0.31, row + 0.31], color=PAGE, linewidth=2)
    panels[0].set_yticks(range(len(_BARS)), [text for text, _ in _BARS.values()])
    panels[0].invert_yaxis()
    figure.text(0.985, 0.02, "64 polls at once", color=INK, ha="right", fontsize=10)
    figure.subplots_adjust(left=0.245, right=0.985, top=0.89, bottom=0.1, wspace=0.06)
    return save(figure, path)


def _bars(axes: Any, results: dict[str, Any], key: str, *, scale: float, unit: str, title: str) -> None:
    axes.set_facecolor(PAGE)
    spreads = [numbers[key] for numbers in results.values()]
    widest = scale * max(max(spread.median, spread.q3) for spread in spreads)
    colours = [colour for _, colour in _BARS.values()]
    axes.barh(range(len(spreads)), [spread.median * scale for spread in spreads], height=0.62, color=colours)
    for row, spread in enumerate(spreads):
        median, low, high = spread.median * scale, spread.q1 * scale, spread.q3 * scale
        axes.plot([low, high], [row, row], color=INK, linewidth=1.2)
        axes.text(max(median, high) + widest * 0.02, row, f"{median:.1f} {unit}", color=INK, va="center")
    axes.set_xlim(0, widest * 1.22)
    axes.tick_params(colors=INK, length=0)
    axes.set_xticks([])
    axes.axvline(0, color=FAINT, linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title, color=INK, loc="left", fontsize=12, fontweight="bold", pad=10)
