"""The rules of the house: which file may know what, how long it may be, and that nothing lies about unused."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent
PYTHON = sorted((HERE / "python/agent").rglob("*.py"))
RUST = sorted((HERE / "rust").rglob("*.rs"))
TESTS = sorted((HERE / "tests").rglob("*.py"))

LINES_MAX = 500

# Each room of python/agent and the rooms that it may know.
ROOMS = {
    "weight": (),
    "config": ("weight",),
    "sampling": ("weight", "config"),
    "operate": ("weight", "config", "sampling"),
    "serve": ("weight", "config", "sampling", "operate"),
    "tools": ("weight", "config", "sampling", "operate"),
}

# What a file that can be tested with plain values may import.
PURE_PYTHON = {"config/schema", "config/values", "operate/override", "weight/policy", "weight/pools", "weight/reply"}
HARMLESS = {"collections", "dataclasses", "ipaddress", "json", "math", "re", "tomllib", "typing"}
PURE_RUST = {"effort", "net", "pid", "title", "presets", "snapshot", "quarantine", "tracker/rechecks"}


def short(path: Path) -> str:
    return str(path.relative_to(HERE))


def module(path: Path) -> str:
    """`agent.tools.haproxy.lint` for python/agent/tools/haproxy/lint.py."""
    return ".".join(path.relative_to(HERE / "python").with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> set[str]:
    """Every module that a file names, wherever in it; `from agent import x` is agent.x."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = module(path).split(".") if path.name == "__init__.py" else module(path).split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            found |= {source, *(f"{source}.{alias.name}" for alias in node.names)}
    return found


def code(path: Path) -> str:
    """A Rust file without its comments and its tests."""
    if path.stem == "tests":
        return ""
    return re.sub(r"//.*", "", path.read_text()).partition("#[cfg(test)]")[0]


@pytest.mark.parametrize("name", sorted(PURE_PYTHON))
def test_pure_python_imports_nothing_of_the_world(name: str) -> None:
    path = HERE / f"python/agent/{name}.py"
    ours = {module(HERE / f"python/agent/{pure}.py") for pure in PURE_PYTHON} | {f"agent.{room}" for room in ROOMS}
    foreign = {
        found
        for found in imports(path)
        if found.split(".")[0] not in HARMLESS and found not in ours and found.rpartition(".")[0] not in ours
    }
    assert foreign == set()


@pytest.mark.parametrize("name", sorted(PURE_RUST))
def test_pure_rust_names_nothing_of_the_world(name: str) -> None:
    path = HERE / f"rust/{name}.rs"
    world = r"std::(fs|net(?!::IpAddr\b)|io|os|env|process|thread|time|sync)\b|pyo3|rustix|aya|libc|unsafe"
    assert re.findall(world, code(path)) == []


def test_only_the_boundary_names_pyo3() -> None:
    assert [short(path) for path in RUST if "pyo3" in code(path)] == ["rust/python.rs"]


def test_only_titles_and_presets_know_how_a_program_writes_its_titles() -> None:
    knowing = {short(path) for path in RUST if re.search(r"busy\]|\[?resque-|rq:worker|postgres: ", code(path))}
    assert knowing == {"rust/title.rs"}


def test_the_server_knows_neither_policy_nor_cache() -> None:
    known = imports(HERE / "python/agent/serve/server.py")
    assert {name for name in known if name.startswith("agent.")} <= {
        "agent._scan",
        "agent._scan.Answerer",
        "agent.config",
        "agent.config.values",
        "agent.config.values.show_address",
    }


def test_the_control_socket_knows_no_command() -> None:
    known = imports(HERE / "python/agent/operate/socket.py") | imports(HERE / "python/agent/operate/session.py")
    ours = {name for name in known if name.startswith("agent.")}
    rooms = {"agent.operate", "agent.operate.session", "agent.config", "agent.config.values", "agent.config.paths"}
    assert {".".join(name.split(".")[:3]) for name in ours} <= rooms


def test_the_cache_knows_no_clock_no_scan_and_no_socket() -> None:
    known = {name.split(".")[0] for name in imports(HERE / "python/agent/sampling/cache.py")}
    assert known <= {"collections", "dataclasses", "typing"}


def test_only_the_pipeline_and_the_one_off_scan_build_replies() -> None:
    wiring = {path.stem for path in PYTHON if "agent.weight.pools.ReplyBuilder" in imports(path)}
    assert wiring == {"pipeline", "check"}


@pytest.mark.parametrize("path", PYTHON, ids=short)
def test_every_python_module_says_first_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert len(docstring.split()) >= 4


@pytest.mark.parametrize("path", RUST, ids=short)
def test_every_rust_file_says_first_what_it_is(path: Path) -> None:
    assert re.match(r"//! \S+( \S+){3}", path.read_text())


@pytest.mark.parametrize("path", [*PYTHON, *RUST, *TESTS], ids=short)
def test_no_file_is_long_or_has_things_left_to_do(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_MAX
    assert re.findall(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b", text) == []


def test_every_python_module_is_used_by_another_one() -> None:
    named = set().union(*(imports(path) for path in PYTHON))
    entries = {"agent", "agent.__main__", "agent.cli", "agent.tools.haproxy"}
    assert {module(path) for path in PYTHON} - named - entries == set()


def test_every_rust_file_is_part_of_the_crate() -> None:
    declared = set()
    for path in RUST:
        home = path.parent if path.name in ("lib.rs", "mod.rs") else path.with_suffix("")
        for name in re.findall(r"^\s*(?:pub(?:\(\w+\))? )?mod (\w+);", path.read_text(), re.MULTILINE):
            declared |= {home / f"{name}.rs", home / name / "mod.rs"}
    roots = {HERE / "rust/lib.rs", HERE / "rust/bpf/build.rs"}
    assert {short(path) for path in set(RUST) - declared - roots} == set()


def test_the_agent_carries_nothing_of_the_tools_for_people() -> None:
    program = "import sys; from agent.serve import loop; from agent.serve.daemon import Daemon; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(told.stdout.split())
    assert "agent.serve.daemon" in loaded
    tools = ("rich", "agent.tools")
    assert {name for name in loaded if name.startswith(tools)} == set()
