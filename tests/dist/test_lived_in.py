"""The tests themselves on a machine that has been lived in: they mind nothing of what tests/tryout/lived-in makes."""

import subprocess

import pytest

from tests.booted.host import missing_for_boot

from .debian import REPOSITORY

pytestmark = [pytest.mark.first_hour, pytest.mark.timeout(1800)]

# Those that could mind: they boot machines, start programs by their paths, read systemd's files, write for other users,
# count real workers, or ask for an agent where one usually is.
PARTS = (
    "tests/booted/test_machine.py",
    "tests/booted/test_units_booted.py",
    "tests/booted/test_least_privilege.py",
    "tests/config",
    "tests/faults/test_bad_machines.py",
    "tests/operate",
    "tests/real/test_doctor_real.py",
    "tests/real/test_end_to_end.py",
    "tests/real/test_presets.py",
    "tests/systemd",
    "tests/test_cli.py",
    "tests/tools",
    "tests/tryout",
)


def test_tests_mind_nothing_that_lies_about() -> None:
    missing = missing_for_boot()
    assert missing is None, missing
    tests = [".venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist=loadfile", *PARTS]
    lived_in = [str(REPOSITORY / "tests/tryout/lived-in"), *tests]
    done = subprocess.run(lived_in, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
