"""The pinned Python packages. It must never reach the network: it compares two files."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.parametrize("group", ["dev", "lint", "bench", "dist"])
def test_every_dependency_is_pinned_to_a_version_it_allows(group: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    asked = list(project["dependency-groups"][group])
    if group == "dev":
        asked += project["project"]["dependencies"]
        for extra in project["project"]["optional-dependencies"].values():
            asked += extra
    lines = (REPOSITORY / f"requirements-{group}.txt").read_text().splitlines()
    pins = dict(line.split()[0].split("==") for line in lines if line[:1].isalpha())

    faults = [
        f"{wanted} (pinned: {pins.get(wanted.name)})"
        for wanted in map(Requirement, asked)
        if wanted.name != "busyweight" and not wanted.specifier.contains(pins.get(wanted.name, "0"))
    ]

    assert not faults, "type `make lock`"
