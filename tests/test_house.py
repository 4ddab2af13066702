"""The project's rules: which file may import what, how long it may be, that no file is unused, and that
ARCHITECTURE.md's table lists every file."""

import ast
import itertools
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

# ARCHITECTURE.md's table has each of their files in one row.
MAPPED = ("rust", "python/agent", "contrib", "systemd", "tools")

# What a file may import that calls itself PURE in its first word, so that it can be tested with plain values. These do.
PURE_AT_LEAST = {"weight/policy", "weight/pools", "weight/reply", "config/schema", "config/toml", "operate/override"}
PURE_AT_LEAST |= {"title", "presets", "snapshot"}
HARMLESS = {"collections", "dataclasses", "ipaddress", "itertools", "json", "math", "re", "tomllib", "typing"}


def short(path: Path) -> str:
    return str(path.relative_to(HERE))


def module(path: Path) -> str:
    """`agent.tools.haproxy.lint` for python/agent/tools/haproxy/lint.py."""
    return ".".join(path.relative_to(HERE / "python").with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path) for path in PYTHON}


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


def known(path: Path) -> set[str]:
    """The modules of ours that a file imports; `from package import x` is the module x, where that is one."""
    found = imports(path) & MODULES
    return found - {name for name in found if any(other.startswith(f"{name}.") for other in found)}


def code(path: Path) -> str:
    """A Rust file without its comments and its tests."""
    if path.stem == "tests":
        return ""
    return re.sub(r"//.*", "", path.read_text()).partition("#[cfg(test)]")[0]


def pure(paths: list[Path], comment: str) -> list[Path]:
    return [path for path in paths if path.read_text().startswith(f"{comment}PURE. ") and path.name != "__init__.py"]


PURE_PYTHON = pure(PYTHON, '"""')
PURE_RUST = pure(RUST, "//! ")


def test_what_decides_is_pure() -> None:
    names = {str(path.relative_to(HERE / "python/agent").with_suffix("")) for path in PURE_PYTHON}
    assert names | {path.stem for path in PURE_RUST} >= PURE_AT_LEAST


@pytest.mark.parametrize("path", PURE_PYTHON, ids=short)
def test_pure_python_imports_nothing_of_the_world(path: Path) -> None:
    ours = {module(each) for each in PURE_PYTHON} | {f"agent.{room}" for room in ROOMS}
    # A constant, of the pure rust/presets.rs.
    ours |= {"agent._scan.PRESETS"}
    imported = imports(path)
    imported -= {"agent._scan"} if "agent._scan.PRESETS" in imported else set()
    foreign = {
        found
        for found in imported
        if found.split(".")[0] not in HARMLESS and found not in ours and found.rpartition(".")[0] not in ours
    }
    assert foreign == set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_the_rooms_below_it(room: str) -> None:
    below = {"agent", *(f"agent.{name}" for name in (room, *ROOMS[room]))}
    files = [path for path in PYTHON if module(path).startswith(f"agent.{room}.")]
    assert files
    foreign = {
        (short(path), name) for path in files for name in known(path) if ".".join(name.split(".")[:2]) not in below
    }
    assert foreign == set()


def test_no_module_is_imported_by_what_it_imports() -> None:
    below = {module(path): known(path) for path in PYTHON}
    while below:
        lowest = {name for name, names in below.items() if not names & below.keys()}
        assert lowest, f"these import each other: {sorted(below)}"
        below = {name: names for name, names in below.items() if name not in lowest}


@pytest.mark.parametrize("path", PURE_RUST, ids=short)
def test_pure_rust_names_nothing_of_the_world(path: Path) -> None:
    world = (
        r"std::(fs|net(?!::IpAddr\b)|io|os|env|process|thread|time(?!::Duration\b)|sync)\b|pyo3|rustix|aya|libc|unsafe"
    )
    assert re.findall(world, code(path)) == []


def test_only_the_boundary_names_pyo3() -> None:
    naming = {path for path in RUST if "pyo3" in code(path)}
    assert naming == {HERE / "rust/python.rs", *(HERE / "rust/python").rglob("*.rs")}


def test_only_the_choice_of_a_discovery_names_the_one_in_the_kernel() -> None:
    assert [short(path) for path in RUST if re.search(r"\bebpf::", code(path))] == ["rust/discovery/choice.rs"]


def test_only_titles_and_presets_know_how_a_program_writes_its_titles() -> None:
    knowing = {short(path) for path in RUST if re.search(r"busy\]|\[?resque-|rq:worker|postgres: ", code(path))}
    assert knowing == {"rust/title.rs", "rust/presets.rs"}


def test_the_server_knows_neither_policy_nor_cache() -> None:
    known = imports(HERE / "python/agent/serve/server.py")
    assert {name for name in known if name.startswith("agent.")} <= {
        "agent._scan",
        "agent._scan.Answerer",
        "agent.config",
        "agent.config.values",
        "agent.config.values.show_address",
        "agent.config.words",
        "agent.config.words.os_error",
        "agent.operate.listener",
        "agent.operate.listener.ListenerWatch",
    }


def test_the_control_socket_knows_no_command() -> None:
    known = imports(HERE / "python/agent/operate/socket.py") | imports(HERE / "python/agent/operate/session.py")
    ours = {name for name in known if name.startswith("agent.")}
    allowed = (
        "config",
        "config.paths",
        "config.values",
        "config.words",
        "operate",
        "operate.listener",
        "operate.session",
    )
    assert {".".join(name.split(".")[1:3]) for name in ours} <= set(allowed)


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


def rows() -> dict[str, set[str]]:
    """ARCHITECTURE.md's table: each question, and the files and directories that its row names."""
    lines = (HERE / "ARCHITECTURE.md").read_text().partition("| question | files |\n|---|---|\n")[2].splitlines()
    cells = [line.strip("| ").split(" | ") for line in itertools.takewhile(lambda line: line.startswith("|"), lines)]
    return {question: set(re.findall(r"`([\w./-]+/[\w.-]*)`", files)) for question, files in cells}


def is_source(path: Path) -> bool:
    """Not what a build left there, nor the beginning of a package that only says what that is."""
    if not path.is_file() or "__pycache__" in path.parts or path.suffix == ".so" or path.name == "py.typed":
        return False
    return path.name != "__init__.py" or len(ast.parse(path.read_text()).body) > 1


def test_the_table_of_files_names_what_exists() -> None:
    assert [
        (question, name) for question, names in rows().items() for name in names if not (HERE / name).exists()
    ] == []


@pytest.mark.parametrize("top", MAPPED)
def test_the_table_of_files_has_every_source_in_one_row(top: str) -> None:
    missing = []
    for path in filter(is_source, (HERE / top).rglob("*")):
        # The row that names the file; else the one that names the nearest directory that it is in.
        places = [short(path), *(f"{short(parent)}/" for parent in path.parents if parent.is_relative_to(HERE / top))]
        found = [[question for question, names in rows().items() if place in names] for place in places]
        nearest = next(filter(None, found), [])
        if len(nearest) != 1:
            missing.append((short(path), nearest))
    assert missing == []


@pytest.mark.parametrize("path", TESTS, ids=short)
def test_what_tests_share_stands_in_a_file_of_its_own(path: Path) -> None:
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [getattr(node, "module", None) or node.names[0].name for node in found]
    assert [name for name in names if name.rpartition(".")[2].startswith("test_")] == []
