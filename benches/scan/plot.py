"""The plot of the scan bench: CPU per scan against host size, logarithmic, an SVG for light and dark pages.

The lines carry their names at their right ends. It must not need the web: no fonts, no scripts.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl

from benches.harness import RESULTS

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

# Light page colour -> dark page colour. A style sheet in the SVG swaps them where the reader's page is dark.
_PAGE, _INK, _FAINT, _OTHER = "#ffffff", "#1f2328", "#d0d7de", "#6e7781"
_SWEEP, _CGROUP, _EBPF = "#0969da", "#1a7f37", "#bc4c00"
_DARK = {
    _PAGE: "#0d1117",
    _INK: "#e6edf3",
    _FAINT: "#30363d",
    _OTHER: "#9198a1",
    _SWEEP: "#58a6ff",
    _CGROUP: "#3fb950",
    _EBPF: "#f0883e",
}
_LINES = {
    "original": ("original (psutil)", _INK, "-"),
    "psutil": ("psutil, name first", _OTHER, "-"),
    "raw-cmdline": ("C, reads every cmdline", _OTHER, "--"),
    "raw-getdents": ("C, only lists /proc", _OTHER, ":"),
    "busyweight-sweep": ("busyweight, sweep", _SWEEP, "-"),
    "busyweight-cgroup": ("busyweight, cgroup", _CGROUP, "-"),
    "busyweight-ebpf": ("busyweight, ebpf", _EBPF, "-"),
}
_LABEL_GAP = 0.058  # of the axis' height, between two names


def plot_scan(hosts: dict[str, Any], path: Path = RESULTS / "scan.svg") -> Path:
    """Draws every contestant that was measured at more than one size; single-threaded hosts only."""
    mpl.rcParams.update(
        {"font.family": "DejaVu Sans", "font.size": 11, "svg.fonttype": "path", "svg.hashsalt": "busyweight"}
    )
    figure, axes = plt.subplots(figsize=(8.6, 4.8), facecolor=_PAGE)
    axes.set_facecolor(_PAGE)
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
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, format="svg", facecolor=_PAGE, metadata={"Date": None})
    plt.close(figure)
    path.write_text(_with_dark_colours(path.read_text()))
    return path


def _dress(figure: Any, axes: Any, sizes: list[int]) -> None:
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", bottom=False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:,g} ms"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="both", colors=_INK, length=0)
    axes.grid(visible=True, which="major", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel("processes on the host, 100 of them workers", color=_INK)
    axes.set_title("CPU time of one scan, steady state", color=_INK, loc="left", fontsize=12, fontweight="bold", pad=12)
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


def _with_dark_colours(svg: str) -> str:
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark} !important}}'
        for light, dark in _DARK.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    head, tag, rest = svg.partition("<defs>")
    return f"{head}{style}\n {tag}{rest}"
