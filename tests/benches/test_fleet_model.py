"""The fleet bench's model of a host does what its page says: processor sharing, and titles at heartbeats."""

import subprocess
from pathlib import Path

from tests.farm import compile_c
from tests.tree import Tree

FLEET = Path(__file__).parents[2] / "benches" / "fleet"


def test_cores_are_shared_alike_and_titles_change_at_heartbeats_alone(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "procfs")
    tree.workers(0, 2)
    sources = [Path(__file__).with_suffix(".c"), FLEET / "host.c"]
    program = compile_c("fleet-model", sources, headers=[FLEET / "fleet.h"], libraries=["m"])
    done = subprocess.run([program, str(tree)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
