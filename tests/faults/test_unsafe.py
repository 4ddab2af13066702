"""`unsafe` is used only where this test lists it, and memory is used correctly."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import SOAK
from tests.missing import need
from tests.tree import Tree

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

# Every use, by file. Why each is sound stands beside it in the source.
USES = {
    "rust/cpu_time.rs": 1,
    "rust/discovery/ebpf/candidates.rs": 2,
    "rust/discovery/ebpf/filter.rs": 1,
    "rust/discovery/ebpf/sys.rs": 4,
    "rust/python/polls.rs": 1,
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


def valgrind(*command: str | Path, **environ: str) -> str:
    """What the command prints, if valgrind finds no fault in it."""
    program = need("valgrind", "valgrind")
    options = ["--error-exitcode=99", "--quiet", "--trace-children=no", f"--suppressions={HERE / 'cpython.supp'}"]
    told = subprocess.run(
        [program, *options, *command], cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def made(like: str, *words: str, **environ: str) -> Path:
    """The one file of such a path that this makes. Valgrind has no vDSO, which rustix would look for by itself."""
    command = ["cargo", *words, "--locked", "--lib", "--features=rustix/use-libc-auxv", "--message-format=json"]
    told = subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=True)
    messages = [json.loads(line) for line in told.stdout.splitlines() if line.startswith("{")]
    [path] = {Path(f) for m in messages for f in [*m.get("filenames", []), m.get("executable")] if f and like in f}
    return path


@pytest.mark.skipif(not SOAK, reason="make soak")
@pytest.mark.timeout(1200)
def test_valgrind_finds_no_fault_in_the_rust_tests() -> None:
    assert " 0 failed; 0 ignored; " in valgrind(made("/_scan-", "test", "--no-run"), "--test-threads=1")


@pytest.mark.skipif(not SOAK, reason="make soak")
@pytest.mark.timeout(1200)
def test_valgrind_finds_no_fault_in_a_scanner_and_an_answerer_that_python_uses(tmp_path: Path) -> None:
    library = made("/lib_scan.so", "build", PYO3_BUILD_EXTENSION_MODULE="1")
    tree = Tree(tmp_path / "proc")
    tree.workers(busy=3, idle=2)
    tree.add(300, b"\xff\0[3 of 4 busy]")
    tree.forbid(tree.add(301, b""))
    tree.add_hanging(400)
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent/__init__.py").touch()
    (tmp_path / "agent/_scan.abi3.so").symlink_to(library)
    environ = {"PYTHONPATH": str(tmp_path), "PYTHONMALLOC": "malloc"}
    said = valgrind(sys.executable, HERE / "under_valgrind.py", tmp_path / "proc", **environ)
    assert said == "busy 3 3 workers 5 visible True hung True\nanswered 150 refused 50 pollers 4\n"
