"""The tables of docs/fleet.md, made from benches/results/: fleet.json, real.json and haproxies.json.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; the text around it is written by hand and has no
measured numbers. A test checks that the page matches the results.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches.fleet.scenarios import NOW, all_scenarios, now_scenarios, restarts
from benches.harness import RESULTS
from benches.real import page as real_page

PAGE = Path(__file__).parents[2] / "docs" / "fleet.md"
_TABLE = re.compile(r"(?<=<!-- table: )(\w+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)

Results = dict[str, Any]

# What busyweight is called among the rules for short jobs.
BALANCE = {"busyweight": "roundrobin", "busyweight leastconn": "leastconn", "busyweight random": "random"}
NOW_WORDS = {"busyweight": "busyweight: working now, 0.25s"}


def write() -> Path:
    """Updates the page's tables from the results on disk."""
    PAGE.write_text(filled(PAGE.read_text()))
    return PAGE


def filled(text: str) -> str:
    """The page's text with all tables updated; one without results says so."""
    known: dict[str, Results] = {}

    def table(name: str) -> str:
        source, rows = _OTHERS[name] if name in _OTHERS else ("fleet", _TABLES[name])
        results = RESULTS / f"{source}.json"
        if not results.exists():
            return "Not measured yet."
        if source not in known:
            known[source] = json.loads(results.read_text())
        return rows(known[source])

    return _TABLE.sub(lambda found: f"{found[1]}{found[2]}\n{table(found[1])}\n\n", text)


def _rows(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _seconds(spread: Results) -> str:
    """The median, with the range of all seeds if it is not a single value."""
    low, high = f"{spread['low']:.2f}", f"{spread['high']:.2f}"
    return f"{spread['median']:.2f}" + (f" ({low}-{high})" if low != high else "")


def _percent(spread: Results) -> str:
    return f"{100 * spread['median']:z.1f} %"


def _percent_of_seeds(spread: Results) -> str:
    low, high = f"{100 * spread['low']:.1f}", f"{100 * spread['high']:.1f}"
    return _percent(spread) + (f" ({low}-{high})" if low != high else "")


def capacity(results: Results) -> str:
    spread = results["capacity_spread"]
    rows = [
        [
            name,
            f"{found['median']:.1f}",
            f"{found['low']:.1f}-{found['high']:.1f}",
            f"{found['median'] / spread['dedicated']['median']:.2f}",
            f"{found['median'] / spread['oracle']['median']:.2f}",
        ]
        for name, found in spread.items()
    ]
    return _rows(["arrangement", "requests/s held", "range", "to dedicated", "to oracle"], rows)


def _windows(arrangements: Results) -> str:
    head = ["", "goodput /s", "p50 s", "p95 s", "p99 s", "errors", "jobs lose", "weight changes"]
    rows = []
    for name, windows in arrangements.items():
        for window, found in windows.items():
            title = name if len(windows) == 1 else f"{name}, {window}"
            row = [title, f"{found['goodput']['median']:.1f}"]
            row += [_seconds(found[key]) for key in ("p50_s", "p95_s", "p99_s")]
            row += [_percent(found["errors"]), _percent(found["job_slowdown"])]
            rows.append([*row, f"{found['weight_changes_per_host_minute']['median']:.1f}"])
    return _rows(head, rows)


def scenarios(results: Results) -> str:
    titles = {scenario.name: scenario.title for scenario in (*all_scenarios(), *restarts())}
    parts = [
        f"**{titles[name]}** (`{name}`)\n\n{_windows(arrangements)}"
        for name, arrangements in results["scenarios"].items()
        if name in titles
    ]
    return "\n\n".join(parts)


def now(results: Results) -> str:
    """Jobs that come and go between two heartbeats: what they lose, and the p95 of requests at the same time."""
    head, rows = ["rule, agent-inter"], [[NOW_WORDS.get(rule.name, rule.name)] for rule in NOW]
    for scenario in now_scenarios():
        (window,) = scenario.windows
        head += [f"{scenario.name}: jobs lose", "p95 s"]
        for rule, row in zip(NOW, rows, strict=True):
            found = results["scenarios"][scenario.name][rule.name][window]
            row += [_percent_of_seeds(found["job_slowdown"]), f"{found['p95_s']['median']:.2f}"]
    return _rows(head, rows)


def dead(results: Results) -> str:
    rows = []
    for name in ("agent dead at 0%", "agent dead at 100%"):
        for arrangement, windows in results["scenarios"][name].items():
            found = next(iter(windows.values()))
            rows.append([f"{name}, {arrangement}", _seconds(found["p95_s"]), _percent(found["slowdown_of_its_host"])])
    return _rows(["", "p95 s", "jobs of that host lose"], rows)


def judged_rules(results: Results) -> list[tuple[str, Results]]:
    """Each rule's name and where it was measured, the four to compare with first. Where candidates were measured at
    another time than the scenarios, these four were measured with them."""
    tried = results["candidates"]
    measured = [
        (name, tried if name in tried["night"] else results["scenarios"])
        for name in ("static", "busyweight", "busyweight leastconn", "oracle")
    ]
    return measured + [(name, tried) for name in tried["night"] if name not in dict(measured)]


def candidates(results: Results) -> str:
    rows = []
    for name, place in judged_rules(results):
        onset, calm = place["night"][name]["onset"], place["night"][name]["night"]
        spike = place["night spike"][name]["night"]
        rows.append(
            [
                name,
                _percent(onset["job_slowdown"]),
                _seconds(calm["p95_s"]),
                _percent(calm["job_slowdown"]),
                _seconds(spike["p95_s"]),
                f"{spike['goodput']['median']:.0f}",
                _percent(spike["job_slowdown"]),
            ]
        )
    head = ["rule", "onset: jobs lose", "night: p95 s", "jobs lose", "spike: p95 s", "goodput /s", "jobs lose"]
    return _rows(head, rows)


def scale(results: Results) -> str:
    rows = []
    for name, found in results["scale"].items():
        ours, follow = found["busyweight"], found["follow_s"]
        rows.append(
            [
                f"{name}, {found['real_agents']} real agents",
                f"{follow['median']:.2f}",
                f"{follow['high']:.2f}",
                str(follow["n"]),
                f"{100 * ours['cores_used']['haproxy']:.0f} %",
                f"{100 * ours['cores_used']['agent']:.2f} %",
                ", ".join(f"{count} {status}" for status, count in found["agent_checks"].items()),
            ]
        )
    head = ["", "weight right after s, median", "last", "changes seen", "HAProxy's CPU", "an agent's CPU", "checks"]
    return _rows(head, rows)


def _seeds(results: Results) -> tuple[int, int, int]:
    gusts, night = (results["scenarios"][name]["busyweight"] for name in ("gusts of 4 s", "night"))
    return (
        results["capacity_spread"]["busyweight"]["n"],
        gusts["gusts"]["p95_s"]["n"],
        night["night"]["p95_s"]["n"],
    )


def calibration(results: Results) -> str:
    found, model = results["calibration"], results["model"]
    used = found["most_cores_used"]
    rows = [
        [
            "plumbing adds, p50 / p95 / p99",
            " / ".join(f"{1000 * found[f'plumbing_p{p}_s']:.1f} ms" for p in (50, 95, 99)),
        ],
        [
            "most CPU used: HAProxy / model / an agent",
            " / ".join(f"{100 * used[n]:.0f} %" for n in ("haproxy", "model", "agent")),
        ],
        ["requests sent late, p99 of the worst run", f"{1000 * found['latest_sent_p99_s']:.1f} ms"],
        ["runs; of them too late, in spite of repeats", f"{found['runs']}; {found['runs_sent_late']}"],
        ["compression, job hosts idle / with jobs", f"{model['compression']:g} / {model['compression_with_jobs']:g}"],
        ["seeds, of capacity / gusts / other scenarios", " / ".join(map(str, _seeds(results)))],
    ]
    return _rows(["", "model time, shares of one core"], rows)


def targets(results: Results) -> str:
    rows = []
    for target in results["targets"]:
        bound = f"≥ {target['at_least']:g}" if target["at_least"] is not None else f"≤ {target['at_most']:g}"
        decision = {True: "met", False: "missed", None: "not measured"}[target["met"]]
        rows.append([target["name"], bound, "" if target["value"] is None else f"{target['value']:.3g}", decision])
    return _rows(["promise", "bound", "measured", ""], rows)


def worse(results: Results) -> str:
    found = results["worse_than_static"]
    return "\n".join(f"- {each}" for each in found) if found else "None."


def haproxies(results: Results) -> str:
    """The same nights with each HAProxy, by balance algorithm."""
    rows = []
    for version, scenarios in results["haproxies"].items():
        for name in scenarios["night"]:
            calm, spike = (scenarios[scenario][name]["night"] for scenario in ("night", "night spike"))
            mad, windy = scenarios["mad 6"][name]["spike"], scenarios["gusts of 4 s"][name]["gusts"]
            rows.append(
                [
                    f"{version}, {BALANCE.get(name, name)}",
                    *(_seconds(calm["p95_s"]), _percent(calm["job_slowdown"])),
                    *(_seconds(spike["p95_s"]), f"{spike['goodput']['median']:.0f}", _percent(spike["job_slowdown"])),
                    *(_seconds(mad["p95_s"]), _percent(mad["job_slowdown"])),
                    *(_seconds(windy["p95_s"]), _percent(windy["job_slowdown"])),
                ]
            )
    head = ["", "night: p95 s", "jobs lose", "spike: p95 s", "goodput /s", "jobs lose", "mad 6: p95 s", "jobs lose"]
    return _rows([*head, "gusts of 4 s: p95 s", "jobs lose"], rows)


def _real(table: Callable[[Results], real_page.Table]) -> tuple[str, Callable[[Results], str]]:
    return "real", lambda results: _rows(*table(results))


# Tables from results other than fleet.json.
_OTHERS = {
    "real": _real(real_page.beside),
    "real_capacity": _real(real_page.capacity),
    "real_calibration": _real(real_page.calibration),
    "real_targets": _real(real_page.targets),
    "haproxies": ("haproxies", haproxies),
}
_TABLES = {
    table.__name__: table for table in (capacity, scenarios, now, dead, candidates, scale, calibration, targets, worse)
}
