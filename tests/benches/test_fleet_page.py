"""The page about the fleet says what its results say."""

import json

from benches.fleet import page
from benches.harness import RESULTS


def test_every_table_of_the_page_is_what_the_results_say() -> None:
    results = json.loads((RESULTS / "fleet.json").read_text())
    text = page.PAGE.read_text()
    assert text.count("<!-- table: ") >= 8
    assert page.filled(text, results) == text


def test_every_plot_of_the_page_is_there() -> None:
    for line in page.PAGE.read_text().splitlines():
        if line.startswith("!["):
            assert (page.PAGE.parent / line.partition("(")[2].rstrip(")")).is_file()
