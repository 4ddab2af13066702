"""The facts that the lint and the snippet rely on hold for each release's HAProxys: runs their tests with those."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .trees import Tree

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(2400)]

REPOSITORY = Path(__file__).parents[2]


def passes(debian: Tree, *files: str) -> None:
    """These tests of the tools, with every HAProxy of the release."""
    for haproxy in debian.haproxies():
        command = json.dumps([debian.argv([haproxy.program])])
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
        environment = {**os.environ, "BUSYWEIGHT_HAPROXIES": command}
        done = subprocess.run(argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"HAProxy {haproxy.version}:\n{done.stdout}{done.stderr}"


@pytest.mark.cell("haproxy.cfg", "what the lint says of configurations is what this HAProxy does")
def test_the_lint_is_right(tree: Tree) -> None:
    passes(tree, "tests/tools/test_haproxy_real.py")


@pytest.mark.cell("haproxy.cfg", "a spike that is more than the pool bears spills over to all hosts")
def test_the_spill_spills(tree: Tree) -> None:
    passes(tree, "tests/tools/test_haproxy_spill.py")


@pytest.mark.cell("haproxy.cfg", "several balancers agree; their reloads and the agents' restarts lose no request")
def test_a_fleet_loses_no_request(tree: Tree) -> None:
    passes(tree, "tests/real/test_balancers.py")


@pytest.mark.cell("haproxy.cfg", "keywords, persistence, slowstart and SRV records as the lint takes them to be")
def test_the_facts_are_facts(tree: Tree) -> None:
    passes(tree, "tests/tools/test_haproxy_facts.py")
