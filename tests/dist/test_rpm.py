"""The RPM: its linter's verdict, what is in it, and that the agent in it runs where its libraries are."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from .debian import INSIDE, REPOSITORY, in_debian, the_package, wheel

pytestmark = [pytest.mark.dist, pytest.mark.timeout(1200)]  # the first time debootstrap downloads a Debian

# The dependencies by Fedora's names, each beside Debian's.
LIBRARIES = {"python3-uvloop": "python3-uvloop", "python3-psutil": "python3-psutil", "procps-ng": "procps"}


def rpm() -> Path:
    return the_package("busyweight-*.rpm")


def asked(*query: str) -> list[str]:
    return subprocess.run(["rpm", "-qp", *query, rpm()], capture_output=True, text=True, check=True).stdout.splitlines()


def test_rpmlint_finds_no_error() -> None:
    done = subprocess.run(
        ["rpmlint", "--config", REPOSITORY / "packaging/rpmlint.toml", rpm()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert " 0 errors," in done.stdout, done.stdout + done.stderr


def test_it_is_the_wheel_and_what_a_service_needs() -> None:
    listed = set(asked("--list"))
    with zipfile.ZipFile(wheel()) as packed:
        for name in packed.namelist():
            assert f"/usr/lib/busyweight/{name}" in listed
    for name in (
        "/usr/bin/busyweight",
        "/usr/lib/systemd/system/busyweight.service",
        "/usr/lib/systemd/system/busyweight.socket",
        "/usr/share/bash-completion/completions/busyweight",
        "/usr/share/man/man1/busyweight.1.gz",
    ):
        assert name in listed
    assert asked("--configfiles") == ["/etc/busyweight/busyweight.toml"]


def test_the_agent_in_it_runs_with_its_dependencies_and_no_more() -> None:
    requires = {line.split()[0] for line in asked("--requires")}
    assert LIBRARIES.keys() | {"python3"} <= requires
    tried = REPOSITORY / "target/rpm-tried"
    shutil.rmtree(tried, ignore_errors=True)
    tried.mkdir(parents=True)
    subprocess.run(["rpm", "--root", tried, "-i", "--nodeps", "--noscripts", "--ignoreos", rpm()], check=True)
    place = INSIDE / tried.relative_to(REPOSITORY)
    script = (
        f"cp -R {place}/usr/lib/busyweight /usr/lib && cp {place}/usr/bin/busyweight /usr/bin && busyweight --version"
    )
    said = in_debian(f"{script} && busyweight check", *LIBRARIES.values())
    assert said.startswith(f"busyweight {wheel().name.split('-')[1]}\nup ")


def test_removal_ends_an_override_before_it_stops_the_agent(tmp_path: Path) -> None:
    """systemctl and busyweight are stand-ins that note how they were called, /run and /var/lib are empty ones."""
    scripts = subprocess.run(["rpm", "-qp", "--scripts", rpm()], capture_output=True, text=True, check=True).stdout
    script = scripts.partition("preuninstall scriptlet (using /bin/sh):\n")[2].partition("\npostuninstall ")[0]
    for name in ("systemctl", "busyweight"):
        stand_in = tmp_path / name
        stand_in.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/called\n')
        stand_in.chmod(0o755)
    (tmp_path / "preun").write_text(script)
    stage = "mount -t tmpfs none /run && mount -t tmpfs none /var/lib && mkdir -p /run/systemd/system"
    order = "mkdir -p /var/lib/private/busyweight && touch /var/lib/private/busyweight/override.json"
    removed = f'PATH="{tmp_path}:$PATH" sh -e {tmp_path}/preun 0'
    subprocess.run(["unshare", "--mount", "sh", "-euc", f"{stage}\n{order}\n{removed}"], check=True)
    assert (tmp_path / "called").read_text().splitlines() == [
        "systemctl start busyweight.service",
        "systemctl --quiet is-active busyweight.service",
        "busyweight ready --reason the package is removed",
        "systemctl --no-reload disable --now busyweight.socket busyweight.service",
    ]
