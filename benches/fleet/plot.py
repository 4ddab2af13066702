"""The plots of the fleet bench: capacity, latency against load, the night batch over time, and rules in a spike.

Drawn from the results alone, so that they can be drawn again without a run.
"""

import math
from pathlib import Path
from typing import Any

from benches.fleet.page import NOW_WORDS, judged_rules
from benches.fleet.scenarios import NOW, now_scenarios
from benches.harness import RESULTS
from benches.svg import BLUE, FAINT, GREEN, GREY, INK, ORANGE, PAGE, plt, save

Results = dict[str, Any]
_COLOURS = {"dedicated": GREY, "static": ORANGE, "busyweight": BLUE, "oracle": GREEN}
_WORDS = {
    "dedicated": "dedicated: the three web hosts",
    "static": "static: all seven, equal weights",
    "busyweight": "busyweight: all seven, the agent's weights",
    "oracle": "oracle: knows everything at once",
    "static leastconn": "static, leastconn",
    "busyweight leastconn": "busyweight, leastconn",
}


def all_plots(results: Results) -> tuple[Path, ...]:
    """Draws all plots; returns their paths."""
    return capacity(results), latency(results), night(results), spike(results), now(results)


def _axes(rows: int = 1, height: float = 4.2) -> tuple[Any, list[Any]]:
    figure, grid = plt.subplots(rows, 1, figsize=(8.6, height), facecolor=PAGE, sharex=rows > 1, squeeze=False)
    for axes in grid[:, 0]:
        axes.set_facecolor(PAGE)
        axes.tick_params(which="both", colors=INK, length=0)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure, list(grid[:, 0])


def _title(axes: Any, text: str) -> None:
    axes.set_title(text, color=INK, loc="left", fontsize=12, fontweight="bold", pad=10)


def capacity(results: Results) -> Path:
    """Bars: the highest load held; the whisker is the range of all seeds."""
    figure, (axes,) = _axes(height=3.6)
    spread = results["capacity_spread"]
    names = [name for name in _WORDS if name in spread][::-1]
    dedicated = spread["dedicated"]["median"]
    for row, name in enumerate(names):
        found = spread[name]
        axes.barh(row, found["median"], color=_COLOURS.get(name.split()[0], GREY), height=0.62)
        axes.plot([found["low"], found["high"]], [row, row], color=INK, linewidth=1.4)
        text = f"{found['median']:.0f}/s"
        if name != "dedicated":
            text += f", {found['median'] / dedicated:.2f}-fold"
        axes.text(found["high"] + 6, row, text, color=INK, va="center")
    axes.set_yticks(range(len(names)), [_WORDS[name] for name in names])
    axes.set_xlim(0, 1.62 * max(spread[name]["high"] for name in names))
    axes.grid(visible=True, axis="x", color=FAINT, linewidth=0.8)
    axes.set_xlabel("requests per second held with p95 under one second, job hosts idle", color=INK)
    _title(axes, "How many requests the same hardware takes")
    figure.subplots_adjust(left=0.41, right=0.99, top=0.88, bottom=0.16)
    return save(figure, RESULTS / "fleet-capacity.svg")


def latency(results: Results) -> Path:
    """Lines: p95 by the load that came."""
    figure, (axes,) = _axes()
    for name, colour in _COLOURS.items():
        rows = results["latency_by_load"][name]
        style = "--" if name in ("oracle", "static") else "-"
        loads, waits = [row["load"] for row in rows], [row["p95_s"] for row in rows]
        axes.plot(loads, waits, style, color=colour, linewidth=2.2, label=_WORDS[name])
    axes.axhline(1, color=INK, linewidth=0.9, linestyle=":")
    axes.set_yscale("log")
    axes.set_yticks([0.4, 0.6, 1, 2, 4, 10], ["0.4 s", "0.6 s", "1 s", "2 s", "4 s", "10 s"])
    axes.minorticks_off()
    axes.grid(visible=True, color=FAINT, linewidth=0.8)
    axes.set_xlabel("requests per second, job hosts idle", color=INK)
    axes.legend(frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(0.0, 0.98))
    _title(axes, "p95 against load")
    figure.subplots_adjust(left=0.09, right=0.97, top=0.9, bottom=0.13)
    return save(figure, RESULTS / "fleet-latency.svg")


def night(results: Results) -> Path:
    """Time runs to the right: jobs and weights, whose cores requests take, and what clients feel."""
    figure, (above, middle, below) = _axes(3, 7.2)
    lines = results["timelines"]["night"]
    ours = lines["busyweight"]
    cores = results["model"]["cores"]
    held = [100 * jobs / cores for jobs in ours["jobs"]]
    above.plot(ours["s"], held, color=INK, linewidth=1.8, label="cores that jobs hold, %")
    above.plot(ours["s"], ours["weight"], color=BLUE, linewidth=2.2, label="weight in HAProxy, %")
    for name in ("static", "busyweight", "oracle"):
        line, style = lines[name], "--" if name == "oracle" else "-"
        middle.plot(line["s"], line["requests_on_job_hosts"], style, color=_COLOURS[name], linewidth=1.8, label=name)
        below.plot(line["s"], line["p95_s"], style, color=_COLOURS[name], linewidth=1.8, label=name)
    for axes, title in (
        (above, "Night batch: the job hosts"),
        (middle, "Requests in service per job host"),
        (below, "p95 of requests, seconds"),
    ):
        _title(axes, title)
        axes.grid(visible=True, color=FAINT, linewidth=0.8)
        axes.legend(frameon=False, labelcolor=INK, loc="lower right", bbox_to_anchor=(1, 0.96), ncols=3)
        axes.set_ylim(bottom=0)
    below.set_xlabel("seconds", color=INK)
    figure.subplots_adjust(left=0.07, right=0.97, top=0.93, bottom=0.08, hspace=0.42)
    return save(figure, RESULTS / "fleet-night.svg")


def now(results: Results) -> Path:
    """Bars: what jobs that come and go between two heartbeats lose, under each rule."""
    scenarios = [scenario for scenario in now_scenarios() if scenario.name == "onset" or "gusts" in scenario.name]
    figure, grid = plt.subplots(1, len(scenarios), figsize=(8.6, 3.6), facecolor=PAGE, sharey=True)
    rules = [arrangement.name for arrangement in NOW][::-1]
    for axes, scenario in zip(grid, scenarios, strict=True):
        (window,) = scenario.windows
        axes.set_facecolor(PAGE)
        axes.tick_params(which="both", colors=INK, length=0)
        axes.set_xticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
        found = [results["scenarios"][scenario.name][rule][window]["job_slowdown"]["median"] for rule in rules]
        for row, (rule, lost) in enumerate(zip(rules, found, strict=True)):
            axes.barh(row, 100 * lost, color=_COLOURS.get(rule, FAINT), height=0.62)
            axes.text(100 * (lost + 0.02 * max(found)), row, f"{100 * lost:.1f} %", color=INK, va="center", fontsize=9)
        axes.set_yticks(range(len(rules)), [NOW_WORDS.get(rule, rule) for rule in rules])
        axes.set_xlim(0, 130 * max(found))
        axes.set_title(scenario.name, color=INK, loc="left", fontsize=10)
    figure.suptitle("What jobs lose to requests", color=INK, x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.subplots_adjust(left=0.29, right=0.99, top=0.82, bottom=0.03, wspace=0.08)
    return save(figure, RESULTS / "fleet-now.svg")


def spike(results: Results) -> Path:
    """Points: what a rule costs the jobs in a quiet night, and what it gives the web in a spike."""
    figure, (axes,) = _axes(height=4.8)
    rules = {
        "dedicated": (results["scenarios"], _COLOURS["dedicated"]),
        **{name: (place, _COLOURS.get(name, INK)) for name, place in judged_rules(results)},
    }
    groups: list[list[tuple[float, float, str, str]]] = []
    for name, (place, colour) in rules.items():
        cost = 100 * place["night"][name]["night"]["job_slowdown"]["median"]
        wait = place["night spike"][name]["night"]["p95_s"]["median"]
        point = (cost, wait, colour, name)
        # Points that almost coincide share a label.
        near = (group for group in groups if abs(group[0][0] - cost) < 1.5 and abs(math.log(group[0][1] / wait)) < 0.1)
        found = next(near, None)
        groups.append([point]) if found is None else found.append(point)
    for group in groups:
        for cost, wait, colour, _ in reversed(group):
            axes.plot(cost, wait, "o", color=colour, markersize=7)
        cost, wait, colour, _ = group[0]
        text = "; ".join(name for *_, name in group)
        axes.annotate(text, (cost, wait), (-4, 8), textcoords="offset points", color=colour, fontsize=9)
    axes.set_yscale("log")
    axes.set_yticks([0.4, 0.6, 1, 2, 4, 10], ["0.4 s", "0.6 s", "1 s", "2 s", "4 s", "10 s"])
    axes.minorticks_off()
    axes.grid(visible=True, color=FAINT, linewidth=0.8)
    axes.margins(x=0.22, y=0.1)
    axes.set_xlabel("time that jobs lose in a night without a spike, %", color=INK)
    _title(axes, "p95 of requests in a spike during the night batch")
    figure.subplots_adjust(left=0.09, right=0.97, top=0.91, bottom=0.12)
    return save(figure, RESULTS / "fleet-spike.svg")
