"""The wheel: what it needs, and that it runs in a Debian with nothing but Python."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest
from tools.sbom import settled

from .debian import DIST, INSIDE, REPOSITORY, in_debian, wheel

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1200)]  # the first time debootstrap downloads a Debian

ASK_FOR_EBPF = '[scan]\ndiscovery = "ebpf"\n'


@cache
def said() -> list[str]:
    """What the installed agent says: its version, one scan through eBPF as JSON, and its reply to a poll."""
    place = INSIDE / wheel().relative_to(REPOSITORY)
    script = f"""
        for tool in cc gcc clang rustc cargo; do ! command -v $tool; done
        python3 -m venv /opt/busyweight
        /opt/busyweight/bin/pip install --quiet --only-binary=:all: {place} >&2
        /opt/busyweight/bin/busyweight --version
        echo '{ASK_FOR_EBPF}' >/etc/ebpf.toml
        /opt/busyweight/bin/busyweight check --json --config /etc/ebpf.toml
        /opt/busyweight/bin/python {INSIDE}/tests/dist/served.py
    """
    return in_debian(script, "python3-venv").splitlines()


def test_wheel_installs_where_there_is_no_compiler_and_serves() -> None:
    version = wheel().name.split("-")[1]
    assert said()[0] == f"busyweight {version}"
    assert re.fullmatch(r"up \d+% #\d+/\d+ busy", said()[-1])


def test_wheel_has_the_ebpf_programs_inside() -> None:
    assert json.loads("".join(said()[1:-1]))["discovery"] == "ebpf"


def test_wheel_is_for_every_python_from_3_11_on() -> None:
    assert "-cp311-abi3-" in wheel().name


def test_wheel_names_every_crate_that_is_in_it() -> None:
    """A software bill of materials, where PEP 770 looks for it."""
    with zipfile.ZipFile(wheel()) as packed:
        [name] = [name for name in packed.namelist() if "/sboms/" in name]
        bill = json.loads(packed.read(name))
    assert re.fullmatch(r"busyweight-[^/]+\.dist-info/sboms/busyweight\.cyclonedx\.json", name)
    named = {(part["name"], part["version"]) for part in bill["components"]}
    locked = tomllib.loads((REPOSITORY / "Cargo.lock").read_text())["package"]
    wanted = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["dependencies"].keys()
    assert named < {(crate["name"], crate["version"]) for crate in locked}
    assert wanted <= {name for name, _ in named}


def test_the_list_of_crates_is_the_same_wherever_and_whenever_a_wheel_is_built() -> None:
    """This machine's wheel is built in a temporary directory, the others in this one."""
    bills = set()
    for path in DIST.glob("busyweight-*.whl"):
        with zipfile.ZipFile(path) as packed:
            [name] = [name for name in packed.namelist() if "/sboms/" in name]
            bills.add(packed.read(name))
            record = packed.read(re.sub("sboms/.*", "RECORD", name)).decode()
            digest = base64.urlsafe_b64encode(hashlib.sha256(packed.read(name)).digest()).decode().rstrip("=")
            assert f"\n{name},sha256={digest},{packed.getinfo(name).file_size}\n" in f"\n{record}"
    [bill] = bills
    assert json.loads(bill)["serialNumber"].startswith("urn:uuid:")
    assert b"file:///" not in bill


def test_what_is_compiled_names_no_directory_of_the_machine_that_compiled_it() -> None:
    places = {
        Path.home(),
        REPOSITORY,
        *(Path(os.environ[name]) for name in ("CARGO_HOME", "RUSTUP_HOME") if name in os.environ),
    }
    for path in DIST.glob("busyweight-*.whl"):
        with zipfile.ZipFile(path) as packed:
            extension = packed.read("agent/_scan.abi3.so")
        assert b"/cargo/registry/" in extension, f"{path}: no file of a crate is named, so nothing is proved"
        assert [place for place in places if f"{place}/".encode() in extension] == [], path


def test_the_number_of_the_list_tells_what_is_listed() -> None:
    bill = {"serialNumber": "urn:uuid:1", "metadata": {"component": {"bom-ref": "path+file:///tmp/a#busyweight@1"}}}
    same = {"serialNumber": "urn:uuid:2", "metadata": {"component": {"bom-ref": "path+file:///srv/b#busyweight@1"}}}
    else_ = {"serialNumber": "urn:uuid:2", "metadata": {"component": {"bom-ref": "path+file:///srv/b#busyweight@2"}}}
    first, second, third = (settled(json.dumps(it).encode()) for it in (bill, same, else_))
    assert first == second == settled(second)
    assert json.loads(first)["metadata"]["component"]["bom-ref"] == "path+file://.#busyweight@1"
    assert json.loads(third)["serialNumber"] != json.loads(first)["serialNumber"]


def test_wheel_needs_no_newer_glibc_than_it_says() -> None:
    audit = [sys.executable, "-m", "auditwheel", "show", str(wheel())]
    shown = subprocess.run(audit, capture_output=True, text=True, check=True).stdout
    assert re.search(r'consistent with the following platform tag:\s+"manylinux_2_17_', shown), shown
