"""The plot of the bench: each job's start and end, and how much later HAProxy's weight followed; logarithmic.

The SVG must need no network: no fonts, no scripts.
"""

from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, NullFormatter

from benches.harness import RESULTS
from benches.svg import BLUE, FAINT, GREEN, GREY, INK, ORANGE, PAGE, plt, save

Results = dict[str, Any]
_COLOURS = (GREEN, BLUE, ORANGE)
_KINDS = {
    "burns": "CPU-bound job",
    "burns, live titles": "CPU-bound job, live titles",
    "waits, live titles": "waiting job, live titles",
}
_SIDES = {"start_ms": "begins", "end_ms": "ends"}
_LEAST_MS, _MOST_MS = 3, 20_000
_ROW_HEIGHT = 0.24  # of a version's dots, within a row


def plot_now(sidekiqs: Results, within_ms: float, path: Path = RESULTS / "now.svg") -> Path:
    """One dot per job, one colour per version of Sidekiq; the line is the target."""
    figure, axes = plt.subplots(figsize=(8.6, 4.6), facecolor=PAGE)
    axes.set_facecolor(PAGE)
    axes.set(xscale="log", xlim=(_LEAST_MS, _MOST_MS))
    rows = [(kind, side) for kind in _KINDS for side in _SIDES]
    for row, (kind, side) in enumerate(rows):
        for number, (measured, colour) in enumerate(zip(sidekiqs.values(), _COLOURS, strict=False)):
            delays_ms = [max(ms, _LEAST_MS) for ms in measured["kinds"][kind][side] if ms is not None]
            height = row + (number - (len(sidekiqs) - 1) / 2) * _ROW_HEIGHT
            axes.plot(delays_ms, [height] * len(delays_ms), "o", color=colour, markersize=4.5, alpha=0.6, mew=0)
    axes.axvline(within_ms, color=GREY, linewidth=1, linestyle="--")
    axes.text(within_ms * 1.06, -0.42, f"{within_ms:,.0f} ms", color=GREY, fontsize=9.5, va="bottom")
    axes.set_yticks(range(len(rows)), [f"{_KINDS[kind]} {_SIDES[side]}" for kind, side in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:,.0f} ms" if ms < 1000 else f"{ms / 1000:g} s"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", colors=INK, length=0)
    axes.grid(visible=True, which="major", axis="x", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(
        "From a job's start or end until HAProxy's weight follows", color=INK, loc="left", fontsize=12,
        fontweight="bold", pad=24,
    )  # fmt: skip
    for number, (version, colour) in enumerate(zip(sidekiqs, _COLOURS, strict=False)):
        at = 0.24 * number
        axes.text(at, 1.03, f"● Sidekiq {version}", color=colour, transform=axes.transAxes, fontsize=10)
    figure.subplots_adjust(left=0.315, right=0.975, top=0.86, bottom=0.09)
    return save(figure, path)
