"""The wheels that are not for this machine: what they need, and that the agent runs there, with a Python as there.

The other processor is qemu's, the other C library is musl, as Alpine has it; this machine's kernel serves both: what
only a real machine shows is not tried.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tree import Tree

from .debian import REPOSITORY, wheel
from .elsewhere import OTHER, AgentElsewhere, Elsewhere, musl, other_processor

pytestmark = [pytest.mark.dist, pytest.mark.timeout(3600)]  # the first time a Python is downloaded, or compiled

MUSL = pytest.param(
    "musl", marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="the wheel for musl is for x86-64 alone")
)


@pytest.fixture(scope="module", params=[OTHER, MUSL])
def python(request: pytest.FixtureRequest) -> Elsewhere:
    return musl() if request.param == "musl" else other_processor()


@pytest.fixture(scope="module")
def packages(python: Elsewhere, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("packages")
    python.install(place)
    return place


@pytest.fixture
def agent(python: Elsewhere, packages: Path, tmp_path: Path) -> Iterator[AgentElsewhere]:
    with AgentElsewhere(python, packages, tmp_path) as running:
        yield running


def test_it_is_that_machine(python: Elsewhere, packages: Path) -> None:
    program = """if True:
        import os, platform, sysconfig
        import agent._scan, agent.serve.loop, psutil, uvloop
        print(platform.machine(), sysconfig.get_config_var("SOABI"))
        with open("/proc/self/maps") as maps:
            print(*{os.path.basename(line.split()[-1]) for line in maps if "/" in line})
    """
    platform_, loaded = python.run("-c", program, PYTHONPATH=str(packages)).splitlines()
    machine, soabi = platform_.split()
    assert soabi.endswith(python.soabi)
    assert f"-{machine}-" in python.soabi
    if python.soabi.endswith("musl"):
        assert "libc.so.6" not in loaded
        assert "_scan.abi3.so" in loaded


def test_one_scan_counts_what_there_is(python: Elsewhere, packages: Path, tmp_path: Path) -> None:
    Tree(tmp_path / "proc").workers(busy=2, idle=3)
    (tmp_path / "busyweight.toml").write_text("[weight]\ncapacity = 8\n")
    options = ["--procfs", str(tmp_path / "proc"), "--config", str(tmp_path / "busyweight.toml")]
    said = python.run("-m", "agent", "check", *options, PYTHONPATH=str(packages))
    assert said == "up 75% #2/8 busy\n"
    assert re.match(r"up ", python.run("-m", "agent", "check", PYTHONPATH=str(packages)))


def test_it_serves_takes_orders_and_releases_when_it_stops(agent: AgentElsewhere) -> None:
    assert agent.ask().startswith(b"up ")
    agent.order("drain", "--reason", "other machine")
    assert agent.ask().startswith(b"drain")
    agent.order("ready")
    assert agent.ask().startswith(b"ready up")


def test_the_glibc_wheel_needs_no_more_than_it_says() -> None:
    audit = [sys.executable, "-m", "auditwheel", "show", str(wheel(OTHER))]
    shown = subprocess.run(audit, capture_output=True, text=True, check=True).stdout
    assert re.search(rf'following platform tag:\s+"manylinux_2_17_{OTHER}"', shown), shown


def test_the_musl_wheel_needs_nothing_but_musl(tmp_path: Path) -> None:
    """auditwheel knows only the C library that it runs with."""
    with zipfile.ZipFile(wheel("x86_64", "musllinux")) as packed:
        extension = packed.extract("agent/_scan.abi3.so", tmp_path)
    shown = subprocess.run(["readelf", "--dynamic", extension], capture_output=True, text=True, check=True).stdout
    assert re.findall(r"\(NEEDED\).*\[(.*)\]", shown) == ["libc.so"]


@pytest.mark.parametrize("python", [MUSL], indirect=True)
def test_the_musl_wheel_has_the_ebpf_programs_inside(python: Elsewhere, packages: Path, tmp_path: Path) -> None:
    """The other processor's cannot be tried: qemu does not know bpf(2)."""
    (tmp_path / "busyweight.toml").write_text('[scan]\ndiscovery = "ebpf"\n')
    asked = ("-m", "agent", "check", "--json", "--config", str(tmp_path / "busyweight.toml"))
    assert json.loads(python.run(*asked, PYTHONPATH=str(packages)))["discovery"] == "ebpf"


def test_the_rust_tests_pass_there(tmp_path: Path) -> None:
    """All but those of the eBPF programs (tests/ebpf), whose system call qemu does not know."""
    python = other_processor()
    [library] = python.tree.glob("usr/lib/*/libpython*.so.1.0")
    (tmp_path / f"libpython{python.version}.so").symlink_to(library)
    said = {"implementation": "CPython", "version": python.version, "shared": "true", "abi3": "true"}
    said |= {"lib_name": f"python{python.version}", "lib_dir": str(tmp_path)}
    (tmp_path / "pyo3").write_text("".join(f"{key}={value}\n" for key, value in said.items()))
    linker = tmp_path / "linker"
    # What Python itself needs is looked for where it runs.
    linker.write_text(f'#!/bin/sh\nexec maturin zig cc -- -target {OTHER}-linux-gnu -Wl,--allow-shlib-undefined "$@"\n')
    linker.chmod(0o755)

    target = f"{OTHER}-unknown-linux-gnu"
    prefix = f"CARGO_TARGET_{target.upper().replace('-', '_')}"
    environ = {
        f"{prefix}_LINKER": str(linker),
        f"{prefix}_RUNNER": f"qemu-{OTHER} -L {python.tree}",
        "PYO3_CONFIG_FILE": str(tmp_path / "pyo3"),
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "TITLES": "10000",  # a tenth: qemu takes its time
    }
    tests = ["cargo", "test", "--locked", f"--target={target}", "--lib", "--test=titles"]
    done = subprocess.run(
        [REPOSITORY / "tools/cross.sh", target, *tests],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = [int(count) for count in re.findall(r"test result: ok. (\d+) passed", done.stdout)]
    assert len(passed) == 2
    assert min(passed) > 0
