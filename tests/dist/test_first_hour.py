"""The two commands of the README, as a newcomer types them on a bare Debian: root, and an ordinary user."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.booted.host import missing_for_boot

from .debian import INSIDE, NEWCOMERS_PACKAGES, REPOSITORY, in_debian

pytestmark = pytest.mark.timeout(3600)

# Of every kind one, and those that once minded what the first command had left.
SOME_TESTS = (
    "tests/booted/test_least_privilege.py",
    "tests/farm",
    "tests/operate",
    "tests/real/test_presets.py",
    "tests/scan/test_scan_proc.py",
    "tests/tools/test_haproxy_facts.py",
    "tests/tryout/test_run.py",
)


def commands() -> list[str]:
    """The README's two commands, and the one that polls."""
    readme = (REPOSITORY / "README.md").read_text()
    [block] = re.findall(r"^## Try it\n\n```sh\n(.*?)```", readme, re.M | re.S)
    typed = [line.partition("#")[0].strip() for line in block.splitlines()]
    assert typed == ["make run", "make test"]
    [poll] = re.findall(r"^\$ (bash -c '.*')$", readme, re.M)
    return [*typed, poll]


@pytest.mark.dist
def test_the_readme_asks_for_what_is_there() -> None:
    readme = " ".join((REPOSITORY / "README.md").read_text().split())
    assert "needs git, make, python3 and python3-venv" in readme


def repository() -> Path:
    """One to clone, of what is here now: committed or not, and whether this itself is a repository or not."""
    place = REPOSITORY / "target/first-hour.git"
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", place], check=True)
    git = ["git", f"--git-dir={place}", f"--work-tree={REPOSITORY}"]
    somebody = ["-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    subprocess.run([*git, "add", "--all", REPOSITORY], check=True)
    subprocess.run([*git, *somebody, "commit", "-q", "-m", "What is here"], check=True)
    return place


def first_hour(release: str, user: str, tests: tuple[str, ...]) -> None:
    """Has a newcomer try the README's commands there; of the tests these run, or all."""
    missing = missing_for_boot()
    assert missing is None, missing
    words = map(str, (INSIDE / repository().relative_to(REPOSITORY), user, *commands(), " ".join(tests)))
    typed = shlex.join(["sh", "-eu", f"{INSIDE}/tests/dist/first-hour", *words])
    said = in_debian(typed, *NEWCOMERS_PACKAGES, release=release)
    assert re.search(r"^first hour: answered after \d+ s: up (\d+%)? ?#", said, re.M), said
    assert "first hour: status: agent" in said
    assert re.search(r"^###\.\.\.  up 50% #3/6 busy", said, re.M), said
    assert "left in the system" not in said, said
    assert re.search(r"^first hour: tests: \d+ passed", said, re.M), said
    assert said.endswith("first hour: well\n")
    print(said)


@pytest.mark.dist
@pytest.mark.parametrize(("release", "user"), [("bookworm", "root"), ("trixie", "newcomer")])
def test_the_two_commands_work_as_written_in_their_order(release: str, user: str) -> None:
    first_hour(release, user, SOME_TESTS)


@pytest.mark.first_hour
@pytest.mark.parametrize("release", ["bookworm", "trixie"])
@pytest.mark.parametrize("user", ["root", "newcomer"])
def test_and_every_test_passes_there(release: str, user: str) -> None:
    first_hour(release, user, ())
