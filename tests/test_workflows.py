"""The workflows say what the Makefile and this repository have. What GitHub makes of them, only GitHub knows."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # pre-commit brings it

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40}")


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_they_run_of_ours_is_there(path: Path) -> None:
    words = (ROOT / "Makefile").read_text()
    typed = " ".join(step.get("run", "") for step in steps(read(path)))
    for target in re.findall(r"(?:^|[ &;])make ([a-z][a-z-]*)(?= |$)", re.sub(r"apt-get install[^&]*", "", typed)):
        assert re.search(rf"^{target}:", words, re.M), target
    for script in re.findall(r"(?:\.ci|tools|tests)/[\w./-]+", typed):
        assert (ROOT / script).exists(), script
    for job in read(path)["jobs"].values():
        if "uses" in job:
            assert (ROOT / job["uses"]).exists()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_others_actions_are_pinned_and_rights_are_given_one_by_one(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert [action for action in used if not PINNED.fullmatch(action)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_wait_for_jobs_that_there_are_and_give_up_in_time(path: Path) -> None:
    jobs = read(path)["jobs"]
    for name, job in jobs.items():
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= jobs.keys(), name
        if "steps" in job and name in ("test", "packages"):
            assert job["timeout-minutes"] <= 90
