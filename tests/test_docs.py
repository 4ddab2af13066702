"""Documentation says what the program says."""

import re
import tomllib
from pathlib import Path

import pytest
from tools import commands

from agent import config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    remedy = ".venv/bin/python -m tools.commands > docs/commands.md"
    assert (ROOT / "docs/commands.md").read_text() == commands.page(), remedy


def test_the_readmes_configuration_is_the_default_one() -> None:
    [block] = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    shown = tomllib.loads(block)
    default = tomllib.loads(config.to_toml(config.Config()))
    for table, keys in shown.items():
        if isinstance(keys, dict):
            assert keys.items() <= default[table].items(), table
        else:
            assert default[table] == keys


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    pattern = r"`((?:rust|python/agent|tests|benches|systemd|docs|metrics|tools)/[\w./-]*)`"
    for name in re.findall(pattern, page.read_text()):
        assert (ROOT / name).exists(), name
