"""Real Sidekiqs, the agent, the script that it replaces and HAProxy: end_to_end.py, with processes of its own.

The script counts every Sidekiq of the machine, and so does an agent without a configuration; other tests, and whoever
uses this machine, have some. So all of it runs in a pid namespace, where those are not to be seen.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.missing import need

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


@pytest.mark.timeout(900)
def test_all_parts_together_in_processes_of_their_own() -> None:
    rights = [] if os.geteuid() == 0 else ["--map-root-user"]
    alone = [need("unshare", "util-linux"), *rights, "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*alone, "true"], check=False).returncode != 0:
        alone = []  # no namespaces for this user: then it asks for a machine without other Sidekiqs
    tests = ["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]
    # Of a short name: HAProxy's socket is below it, and its path has at most 97 bytes.
    with tempfile.TemporaryDirectory(prefix="e2e-") as short:
        done = subprocess.run(
            [*alone, sys.executable, *tests, f"--basetemp={short}/t", HERE / "end_to_end.py"],
            cwd=REPOSITORY,
            env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    if " passed" not in done.stdout:
        pytest.skip(done.stdout)
