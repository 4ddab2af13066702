"""The documentation matches the program."""

import argparse
import re
import tomllib
from pathlib import Path

import pytest
from tools import commands

from agent._scan import PRESETS
from agent.cli import parser
from agent.config import schema, toml

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "contrib/README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    remedy = ".venv/bin/python -m tools.commands > docs/commands.md"
    assert (ROOT / "docs/commands.md").read_text() == commands.page(), remedy


def test_the_readmes_configuration_is_the_default_one() -> None:
    [block] = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    shown = tomllib.loads(block)
    default = tomllib.loads(toml.to_toml(schema.Config()))
    for table, keys in shown.items():
        if isinstance(keys, dict):
            assert keys.items() <= default[table].items(), table
        else:
            assert default[table] == keys


def test_the_readme_has_all_presets() -> None:
    assert f"# {' | '.join(PRESETS)}\n" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in reached:
            reached.add(page)
            todo += [page.parent.joinpath(to).resolve() for to in re.findall(r"\]\(([^)#:]+\.md)\b", page.read_text())]
    assert set(PAGES) <= reached


def test_every_command_is_named_where_operators_look() -> None:
    text = "".join((ROOT / name).read_text() for name in ("README.md", "docs/operations.md"))
    named = set(re.findall(r"\bbusyweight (\w+)", text))
    [every] = (a.choices for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert set(every) <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_named_exists(page: Path) -> None:
    pattern = r"`((?:rust|contrib|python/agent|tests|benches|systemd|docs|metrics|tools)/[\w./-]*)`"
    for name in re.findall(pattern, page.read_text()):
        assert (ROOT / name).exists(), name


def test_every_test_that_the_page_on_reliability_names_exists() -> None:
    named = set(re.findall(r"`(\w+/test_\w+\.py)", (ROOT / "docs/reliability.md").read_text()))
    assert len(named) > 10
    assert {name for name in named if not (ROOT / "tests" / name).exists()} == set()
