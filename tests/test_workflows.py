"""The workflows use what the Makefile and this repository have, and run what CI runs here too.

`make lint` validates them against GitHub's schema; only GitHub shows whether they run.
"""

import re
import shlex
from pathlib import Path

import pytest

from tests.dist.debian import NEWCOMERS_PACKAGES
from tests.workflows import ROOT, WORKFLOWS, read, steps

PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40}")

# What has no meaning but on GitHub, at a release.
ONLY_THERE = [["pypi-attestations", "sign"], ["uv", "publish"], ["gh", "release", "create"]]

NEWCOMERS = {"ca-certificates", *NEWCOMERS_PACKAGES}  # tests/dist/test_first_hour.py

RUN_HERE = [
    [".ci/run"],
    ["apt-get", "update"],  # tools/setup.sh
    ["test", "-e", "dist/busyweight-${GITHUB_REF_NAME#v}.tar.gz"],  # tests/dist/test_release.py
]


def commands(path: Path) -> list[list[str]]:
    """The words of each command that a workflow runs."""
    typed = "\n".join(step.get("run", "") for step in steps(read(path)))
    return [shlex.split(command) for command in re.split(r"&&|;|\n", typed) if command.strip()]


def prerequisites(target: str) -> set[str]:
    """A target of the Makefile, and all that it makes first."""
    found = re.search(rf"^{target}:([^#=\n]*)", (ROOT / "Makefile").read_text(), re.M)
    assert found, f"make {target}"
    return {target}.union(*(prerequisites(name) for name in found[1].split() if re.fullmatch(r"[a-z-]+", name)))


def run_by_ci() -> set[str]:
    """The targets that .ci/run makes."""
    typed = re.sub(r"#.*", "", (ROOT / ".ci/run").read_text())
    asked = [name for line in re.findall(r"\bmake ([a-z -]+)", typed) for name in line.split()]
    return set[str]().union(*(prerequisites(name) for name in asked))


def is_run_here(words: list[str]) -> bool:
    """Whether this repository runs the same command, or cannot."""
    if words[:2] == ["sudo", "env"]:
        words = [word for word in words[2:] if not re.match(r"[A-Z_]+=", word)]
    if words[:3] == ["pipx", "run", "--spec"] and "==" in words[3]:
        words = words[4:]
    if words[:2] == ["apt-get", "install"]:
        return {word for word in words[2:] if not word.startswith("-")} == NEWCOMERS
    if words[0] == "make":
        return set(words[1:]) <= run_by_ci()
    return words in RUN_HERE or any(words[: len(command)] == command for command in ONLY_THERE)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_command_in_them_is_run_here_too(path: Path) -> None:
    assert commands(path)
    assert [words for words in commands(path) if not is_run_here(words)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_they_call_is_there(path: Path) -> None:
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


def test_what_is_released_is_attested_first() -> None:
    jobs = read(ROOT / ".github/workflows/release.yml")["jobs"]
    names = {
        name: [step.get("uses", step.get("run", "")) for step in job.get("steps", [])] for name, job in jobs.items()
    }
    for name, attests, publishes in (
        ("pypi", " pypi-attestations sign dist/*.whl dist/*.tar.gz", " uv publish "),
        ("release", "actions/attest@", "gh release create "),
    ):
        [attested] = [at for at, step in enumerate(names[name]) if attests in step]
        [published] = [at for at, step in enumerate(names[name]) if publishes in step]
        assert attested < published
        assert jobs[name]["permissions"]["id-token"] == "write"
    [attest] = [step for step in jobs["release"]["steps"] if "attest@" in step.get("uses", "")]
    assert attest["with"] == {"subject-path": "dist/*"}
    assert jobs["release"]["steps"][-1]["run"].endswith(" dist/*")
