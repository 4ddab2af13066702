"""PURE. The rows of docs/fleet.md's tables about the real fleet, from benches/results/real.json."""

from typing import Any

Results = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


def beside(results: Results) -> Table:
    """The real fleet and the model, with the same numbers."""
    head = ["", "goodput /s", "model", "p95 s", "model", "jobs lose", "model"]
    rows = []
    for scenario, arrangements in results["real"]["scenarios"].items():
        for window in next(iter(arrangements.values())):
            for name in arrangements:
                real, model = (results[whose]["scenarios"][scenario][name][window] for whose in ("real", "model"))
                title = f"{window}, {name}" if window == scenario else f"{scenario}: {window}, {name}"
                rows.append(
                    [
                        title,
                        *(f"{found['goodput']:.1f}" for found in (real, model)),
                        *(f"{found['p95_s']:.2f}" for found in (real, model)),
                        *(f"{100 * found['job_slowdown']:.1f} %" for found in (real, model)),
                    ]
                )
    return head, rows


def capacity(results: Results) -> Table:
    """The loads held, also as a multiple of the dedicated arrangement's."""
    head = ["", "requests/s held", "model", "to dedicated", "model"]
    whose = [results[each]["capacity"] for each in ("real", "model")]
    rows = [
        [
            name,
            *(f"{found[name]:.1f}" for found in whose),
            *(f"{found[name] / found['dedicated']:.2f}" for found in whose),
        ]
        for name in whose[0]
    ]
    return head, rows


def calibration(results: Results) -> Table:
    """The hosts, and what was in front of them."""
    hosts, found = results["hosts"], results["calibration"]
    used = found["most_cores_used"]
    rows = [
        ["a host", f"{hosts['cores']} cores of {hosts['core']:g} of this machine's"],
        [
            "a request alone takes more than its CPU, p50 / p95",
            f"{1000 * found['added_p50_s']:.0f} ms / {1000 * found['added_p95_s']:.0f} ms",
        ],
        [
            "most cores used: all / HAProxy / the generator / an agent",
            " / ".join(f"{used[name]:.2f}" for name in ("everybody", "haproxy", "generator", "agent")),
        ],
        ["requests sent late, p99 of the worst run", f"{1000 * found['latest_sent_p99_s']:.1f} ms"],
    ]
    return ["", ""], rows


def targets(results: Results) -> Table:
    """What was promised."""
    rows = []
    for target in results["targets"]:
        bound = f"≥ {target['at_least']:g}" if target["at_least"] is not None else f"≤ {target['at_most']:g}"
        decision = {True: "met", False: "missed", None: "not measured"}[target["met"]]
        rows.append([target["name"], bound, "" if target["value"] is None else f"{target['value']:.3g}", decision])
    return ["promise", "bound", "measured", ""], rows
