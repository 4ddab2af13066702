"""`unsafe` is used where it is named here, and nowhere else; and memory is used as it should be."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults import SOAK

ROOT = Path(__file__).parents[2]

# Every use, by file. Why each is sound stands beside it in the source.
USES = {
    "rust/discovery/ebpf/candidates.rs": 3,
    "rust/discovery/ebpf/filter.rs": 1,
    "rust/discovery/ebpf/sys.rs": 4,
    "rust/python.rs": 1,
}


def test_unsafe_is_used_where_it_is_named_and_each_use_has_its_reason_beside_it() -> None:
    found: dict[str, int] = {}
    for path in sorted((ROOT / "rust").rglob("*.rs")):
        lines = path.read_text().splitlines()
        for at, line in enumerate(lines):
            if not re.search(r"\bunsafe\b", line.partition("//")[0]):
                continue
            name = str(path.relative_to(ROOT))
            found[name] = found.get(name, 0) + 1
            above = "\n".join(lines[max(at - 6, 0) : at])
            assert "SAFETY: " in above or "# Safety" in above, f"{name}:{at + 1}"
    assert found == USES


@pytest.mark.skipif(not SOAK, reason="make soak")
@pytest.mark.timeout(1200)
def test_valgrind_finds_no_fault_in_the_rust_tests() -> None:
    if not shutil.which("valgrind"):
        if os.environ.get("CI"):
            pytest.fail("valgrind is not installed: apt install valgrind")
        pytest.skip("valgrind is not installed")
    build = ["cargo", "test", "--locked", "--lib", "--no-run", "--message-format=json"]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=True)
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    [program] = [m["executable"] for m in messages if m.get("executable")]
    tests = ["answer::", "title::", "snapshot::", "presets::", "quarantine::", "tracker::"]
    command = ["valgrind", "--error-exitcode=99", "--quiet", "--trace-children=no", program, "--test-threads=1", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
