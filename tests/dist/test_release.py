"""What the workflows take from dist/ is what `make dist` put there, and the tag is held against its version."""

import fnmatch
import os
import subprocess
from itertools import chain

import pytest

from tests.workflows import ROOT, read, steps

from .debian import DIST, REPOSITORY

pytestmark = pytest.mark.dist

CI, RELEASE = (read(ROOT / f".github/workflows/{name}.yml") for name in ("ci", "release"))


def test_what_ci_keeps_is_all_that_dist_made() -> None:
    kept = [step["with"]["path"].split() for step in steps(CI) if "upload-artifact@" in step.get("uses", "")]
    patterns = list(chain(*kept))
    made = [str(file.relative_to(REPOSITORY)) for file in DIST.glob("busyweight*")]
    assert [pattern for pattern in patterns if not fnmatch.filter(made, pattern)] == []
    assert [name for name in made if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


def test_the_tag_must_be_the_version() -> None:
    [command] = [step["run"] for step in steps(RELEASE) if step.get("name") == "The tag is the version"]
    [source] = DIST.glob("busyweight-*.tar.gz")
    version = source.name.removeprefix("busyweight-").removesuffix(".tar.gz")

    def ends(tag: str) -> int:
        there = {**os.environ, "GITHUB_REF_NAME": tag}
        return subprocess.run(["bash", "-euc", command], cwd=REPOSITORY, env=there, check=False).returncode

    assert ends(f"v{version}") == 0
    assert ends("v0.0.1") == ends(f"v{version}.1") == 1
