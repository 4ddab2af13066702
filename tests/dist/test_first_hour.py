"""The two commands of the README, as a newcomer types them on a bare Debian: root, and an ordinary user."""

import re
import subprocess

import pytest

from tests.booted.host import missing_for_boot

from .debian import INSIDE, NEWCOMERS_PACKAGES, REPOSITORY, in_debian

pytestmark = [pytest.mark.first_hour, pytest.mark.timeout(3600)]


def commands() -> list[str]:
    """The README's two commands, and the one that polls."""
    readme = (REPOSITORY / "README.md").read_text()
    [block] = re.findall(r"^## Try it\n\n```sh\n(.*?)```", readme, re.M | re.S)
    typed = [line.partition("#")[0].strip() for line in block.splitlines()]
    assert typed == ["make run", "make test"]
    [poll] = re.findall(r"^\$ (bash -c '.*')$", readme, re.M)
    return [*typed, poll]


def test_the_readme_asks_for_what_is_there() -> None:
    readme = " ".join((REPOSITORY / "README.md").read_text().split())
    assert "needs git, make, python3 and python3-venv" in readme


@pytest.mark.parametrize(("release", "user"), [("bookworm", "root"), ("trixie", "newcomer")])
def test_the_two_commands_work_as_written_in_their_order(release: str, user: str) -> None:
    missing = missing_for_boot()
    assert missing is None, missing
    clone = REPOSITORY / "target/first-hour.git"
    subprocess.run(["rm", "-rf", clone], check=True)
    # The commits of a worktree, or of a shallow clone, too.
    subprocess.run(["git", "clone", "-q", "--bare", "--depth=1", f"file://{REPOSITORY}", clone], check=True)
    words = [f"'{word}'" for word in (INSIDE / clone.relative_to(REPOSITORY), user)]
    words += ["'{}'".format(word.replace("'", "'\\''")) for word in commands()]
    said = in_debian(f"sh -eu {INSIDE}/tests/dist/first-hour {' '.join(words)}", *NEWCOMERS_PACKAGES, release=release)
    assert re.search(r"^first hour: answered after \d+ s: up (\d+%)? ?#", said, re.M), said
    assert "first hour: status: agent" in said
    assert re.search(r"^###\.\.\.  up 50% #3/6 busy", said, re.M), said
    assert "left in the system" not in said, said
    assert re.search(r"^first hour: tests: \d+ passed", said, re.M), said
    assert said.endswith("first hour: well\n")
    print(said)
