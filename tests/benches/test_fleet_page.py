"""The page about the fleet says what its results say."""

from benches.fleet import page


def test_every_table_of_the_page_is_what_the_results_say() -> None:
    text = page.PAGE.read_text()
    assert text.count("<!-- table: ") >= 12
    assert page.filled(text) == text


def test_every_plot_of_the_page_is_there() -> None:
    for line in page.PAGE.read_text().splitlines():
        if line.startswith("!["):
            assert (page.PAGE.parent / line.partition("(")[2].rstrip(")")).is_file()
