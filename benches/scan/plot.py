"""The plot of the scan bench: CPU per scan against host size, logarithmic, an SVG for light and dark pages.

Names are at the right ends of the lines. The SVG must need no network: no fonts, no scripts.
"""

from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, NullFormatter

from benches.harness import RESULTS
from benches.svg import BLUE, FAINT, GREEN, GREY, INK, ORANGE, PAGE, plt, save

_LINES = {
    "original": ("original (psutil)", INK, "-"),
    "psutil": ("psutil, name first", GREY, "-"),
    "raw-cmdline": ("C, reads every cmdline", GREY, "--"),
    "raw-getdents": ("C, only lists /proc", GREY, ":"),
    "busyweight-sweep": ("busyweight, sweep", BLUE, "-"),
    "busyweight-cgroup": ("busyweight, cgroup", GREEN, "-"),
    "busyweight-ebpf": ("busyweight, ebpf", ORANGE, "-"),
}
_LABEL_GAP = 0.058  # of the axis' height, between two names


def plot_scan(hosts: dict[str, Any], path: Path = RESULTS / "scan.svg") -> Path:
    """Draws every contestant that was measured at more than one size; single-threaded hosts only."""
    figure, axes = plt.subplots(figsize=(8.6, 4.8), facecolor=PAGE)
    axes.set_facecolor(PAGE)
    axes.set(xscale="log", yscale="log")
    ends = {}
    sizes = sorted(host["processes"] for host in hosts.values() if host["threads"] == 1)
    for name, (text, colour, style) in _LINES.items():
        costs = [hosts[str(size)]["steady"]["all_in_turns"].get(name) for size in sizes]
        if not all(costs):
            continue
        milliseconds = [cost["cpu_ns"].median / 1e6 for cost in costs]
        ours = name.startswith("busyweight")
        axes.plot(
            sizes,
            milliseconds,
            style,
            color=colour,
            linewidth=2.4 if ours else 1.6,
            marker="o",
            markersize=4.5,
        )
        ends[name] = (milliseconds[-1], text, colour, "bold" if ours else "normal")
    _dress(figure, axes, sizes)
    _name_lines(axes, list(ends.values()))
    return save(figure, path)


def _dress(figure: Any, axes: Any, sizes: list[int]) -> None:
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", bottom=False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:,g} ms"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", colors=INK, length=0)
    axes.grid(visible=True, which="major", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("processes on the host, 100 of them workers", color=INK)
    axes.set_title("CPU time of one scan, steady state", color=INK, loc="left", fontsize=12, fontweight="bold", pad=12)
    figure.subplots_adjust(left=0.105, right=0.735, top=0.9, bottom=0.13)


def _name_lines(axes: Any, ends: list[tuple[float, str, str, str]]) -> None:
    """Names at the right, in the order of their lines and never over each other."""
    to_fraction = axes.transData + axes.transAxes.inverted()
    right = axes.get_xlim()[1]
    floor = -1.0
    for cost, text, colour, weight in sorted(ends):
        height = max(to_fraction.transform((right, cost))[1], floor + _LABEL_GAP)
        floor = height
        axes.text(1.015, height, text, color=colour, fontweight=weight, va="center", transform=axes.transAxes)
