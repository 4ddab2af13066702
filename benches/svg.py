"""What all plots share: an SVG for light and dark pages that needs no network and no fonts.

Draw with the colours below; a style sheet in the file swaps them if the reader's page is dark.
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

__all__ = ["BLUE", "FAINT", "GREEN", "GREY", "INK", "ORANGE", "PAGE", "plt", "save"]

PAGE, INK, FAINT, GREY = "#ffffff", "#1f2328", "#d0d7de", "#6e7781"
BLUE, GREEN, ORANGE = "#0969da", "#1a7f37", "#bc4c00"
_DARK = {
    PAGE: "#0d1117",
    INK: "#e6edf3",
    FAINT: "#30363d",
    GREY: "#9198a1",
    BLUE: "#58a6ff",
    GREEN: "#3fb950",
    ORANGE: "#f0883e",
}

mpl.rcParams.update(
    {"font.family": "DejaVu Sans", "font.size": 11, "svg.fonttype": "path", "svg.hashsalt": "busyweight"}
)


def save(figure: Any, path: Path) -> Path:
    """Writes the figure and closes it."""
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, format="svg", facecolor=PAGE, metadata={"Date": None})
    plt.close(figure)
    path.write_text(_with_dark_colours(path.read_text()))
    return path


def _with_dark_colours(svg: str) -> str:
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark} !important}}'
        for light, dark in _DARK.items()
        for kind in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark){{{rules}}}</style>"
    head, tag, rest = svg.partition("<defs>")
    return f"{head}{style}\n {tag}{rest}"
