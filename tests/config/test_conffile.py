"""The configuration file that the packages install lists every key, and sets nothing."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.config import schema, toml

TOOL = Path(__file__).parents[2] / "tools" / "conffile.py"


@pytest.fixture(scope="module")
def packaged() -> str:
    return subprocess.run([sys.executable, TOOL], capture_output=True, text=True, check=True).stdout


def test_as_it_comes_it_means_the_same_as_no_file(packaged: str) -> None:
    assert toml.parse(packaged, "busyweight.toml", toml.Checks()) == schema.Config()


def test_with_its_keys_uncommented_it_says_every_key_and_its_default(packaged: str) -> None:
    lines = packaged.splitlines()
    # A key's line is one without a blank after the comment sign.
    spoken = "\n".join(line[1:] if re.match("#[a-z]", line) else line for line in lines)
    assert set(keys(tomllib.loads(spoken))) == {
        f"{table}.{key}".removeprefix(".") for table, kinds in schema.KINDS.items() for key in kinds
    }
    assert toml.parse(spoken, "busyweight.toml", toml.Checks()) == schema.Config()


def keys(table: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from keys(value, f"{path}{name}.")
        else:
            yield path + name
