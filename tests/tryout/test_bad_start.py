"""`make build` when something is missing: its last line names it and the remedy."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.real.parts import free_port

from .checkout import REPOSITORY

SOURCES = (
    "Cargo.lock",
    "Cargo.toml",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "requirements-dev.txt",
    "rust",
    "tools",
)
NOBODY = 65534
# A newcomer's make is nobody's child: under another one, as in `make test`, it would say so on lines of its own.
OWN = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}

NOWHERE = "http://127.0.0.1:9/simple"
AGAIN = "run the same command again"
NEEDED = ("clang", "gcc", "libc6-dev")  # Debian's packages for `make build`

needs_debian = pytest.mark.skipif(not shutil.which("dpkg-query"), reason="apt's packages are Debian's")


@pytest.fixture
def clone() -> Iterator[Path]:
    """A checkout in which nothing was built yet, and which everybody may read."""
    with tempfile.TemporaryDirectory(prefix="busyweight-start-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        for name in SOURCES:
            if (REPOSITORY / name).is_dir():
                shutil.copytree(REPOSITORY / name, place / name)
            else:
                shutil.copy(REPOSITORY / name, place)
        yield place


@pytest.fixture
def programs() -> Iterator[Path]:
    """A directory with all programs of this machine but Rust's."""
    with tempfile.TemporaryDirectory(prefix="busyweight-bin-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        for program in Path("/usr/bin").iterdir():
            if not program.name.startswith(("rust", "cargo")):
                (place / program.name).symlink_to(program)
        yield place


def build(
    clone: Path, *words: str, user: int | None = None, environ: Mapping[str, str] | None = None
) -> tuple[int, list[str]]:
    """What `make build` ends with: the exit code, and its lines without make's own. As root it would install what it
    misses, so as root it must find all of it."""
    done = subprocess.run(
        ["make", *words, "build"],
        cwd=clone,
        env={**OWN, **(environ or {})},
        user=user,
        extra_groups=None if user is None else [],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, [line for line in done.stdout.splitlines() if not line.startswith("make: ***")]


def program(place: Path, text: str) -> Path:
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)
    return place


@needs_debian
@pytest.mark.parametrize("rust", ["", "1.63.0"], ids=["none", "too old"])
def test_who_may_not_install_is_told_what_to_type(clone: Path, programs: Path, rust: str) -> None:
    if rust:
        program(programs / "rustc", f"echo rustc {rust}")
        program(programs / "cargo", f"echo cargo {rust}")
    user = NOBODY if os.geteuid() == 0 else None
    code, lines = build(clone, user=user, environ={"PATH": str(programs), "HOME": str(clone)})
    assert code == 2
    assert len(lines) == 2
    assert "missing: " in lines[0] and "rustc-web cargo-web" in lines[0] and "then the same command again" in lines[0]
    assert f"{clone}/tools/setup.sh install " in lines[1]
    assert not (clone / ".venv").exists()


def test_an_old_python_is_named_with_the_way_out(clone: Path, tmp_path: Path) -> None:
    # The real check, in a Python that says that it is older than it is.
    lie = "import sys; sys.version_info = (3, 10, 13); exec(sys.argv[1])"
    old = program(tmp_path / "python3.10", f"exec '{sys.executable}' -c '{lie}' \"$2\"")
    assert build(clone, f"PYTHON={old}") == (2, ["Python 3.11 or newer is needed: make PYTHON=..."])


def test_a_python_without_venv_is_named_with_the_way_out(clone: Path, tmp_path: Path) -> None:
    lie = 'import sys; sys.modules["ensurepip"] = None; exec(sys.argv[1])'
    bare = program(tmp_path / "python3", f"exec '{sys.executable}' -c '{lie}' \"$2\"")
    assert build(clone, f"PYTHON={bare}") == (2, [f"{bare} lacks venv: apt-get install python3-venv"])


def test_without_a_network_it_says_so_and_the_same_again_goes_on_from_there(clone: Path) -> None:
    nowhere = {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "0"}
    for _ in range(2):
        code, [line] = build(clone, environ=nowhere)
        assert code == 2
        assert "cannot reach a package registry" in line
        assert line.endswith(AGAIN)


@pytest.mark.parametrize("broken", ["bin/pip", "lib/*/site-packages/pip/**/*.py"])
def test_a_pip_that_a_full_disk_left_in_half_is_installed_again(clone: Path, broken: str) -> None:
    nowhere = {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "0"}
    build(clone, environ=nowhere)
    for file in (clone / ".venv").glob(broken):
        file.write_bytes(b"")
        file.chmod(0o644)
    code, [line] = build(clone, environ=nowhere)
    assert code == 2
    assert "cannot reach a package registry" in line


@pytest.mark.root("a directory is mounted")
def test_a_full_disk_is_one_line_and_with_room_the_same_again_goes_on(clone: Path) -> None:
    script = """
        mkdir small
        mount -t tmpfs -o size=12m tmpfs small
        tar --exclude=./small -cf - . | tar -xf - -C small
        cd small
        ! make build
        mount -o remount,size=200m .
        ! make build
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", script],
        cwd=clone,
        env=OWN | {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    full, network = (line for line in done.stderr.splitlines() if not line.startswith("make: ***"))
    assert f"{clone}/small: free some" in full
    assert full.endswith(AGAIN)
    assert "package registry" in network


# As a machine on which no package is installed, and whose archive cannot be reached at first. $1 is its port, $2 a
# directory with its packages, $3 a Python. All of it is an overlay: this machine keeps its packages and settings.
WITHOUT_AN_ARCHIVE = """
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/upper /mnt/work /mnt/root
    mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
    root=/mnt/root
    for place in /dev /proc "$PWD"; do mkdir -p "$root$place" && mount --rbind "$place" "$root$place"; done
    rm -rf "$root"/etc/apt/sources.list* "$root"/var/lib/apt/lists/*
    echo "deb [trusted=yes] http://127.0.0.1:$1 ./" >"$root/etc/apt/sources.list"
    echo 'Acquire::http::Proxy "DIRECT"; Acquire::Retries "0";' >"$root/etc/apt/apt.conf.d/zz-test"
    : >"$root/var/lib/dpkg/status"
    fails() { ! chroot "$root" env -C "$PWD" make build 2>&1; }
    fails
    echo LATER
    "$3" -m http.server --bind 127.0.0.1 --directory "$2" "$1" >/dev/null 2>&1 &
    trap 'kill $!' EXIT
    until (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; do sleep 0.05; done
    fails
    chroot "$root" dpkg-query --show --showformat '${db:Status-Status} ${Package}\n'
"""


def archive(place: Path) -> None:
    """An archive of empty packages with these names."""
    said = ""
    for name in NEEDED:
        control = f"Package: {name}\nVersion: 99\nArchitecture: all\nMaintainer: nobody\nDescription: empty\n"
        tree = place / f"{name}-tree/DEBIAN"
        tree.mkdir(parents=True)
        (tree / "control").write_text(control)
        package = place / f"{name}.deb"
        subprocess.run(["dpkg-deb", "--build", tree.parent, package], check=True, capture_output=True)
        data = package.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        said += f"{control}Filename: ./{package.name}\nSize: {len(data)}\nSHA256: {digest}\n\n"
    (place / "Packages").write_text(said)


@needs_debian
@pytest.mark.root("a directory is mounted")
def test_root_is_told_that_apt_has_no_archive_and_the_same_again_goes_on_from_there(
    clone: Path, tmp_path: Path
) -> None:
    archive(tmp_path)
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-euc", WITHOUT_AN_ARCHIVE, "bash", str(free_port()), tmp_path, sys.executable],
        cwd=clone,
        env=OWN | {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    offline, later = (
        [line for line in said.splitlines() if not line.startswith("make: ***")]
        for said in done.stdout.split("LATER\n")
    )
    assert offline[-1].startswith("setup: apt-get failed for the reason above: check the network")
    assert offline[-1].endswith(AGAIN)
    installed = [f"installed {name}" for name in sorted(NEEDED)]
    assert later[-len(NEEDED) :] == installed
    assert "cannot reach a package registry" in later[-len(NEEDED) - 1]  # what comes after the packages


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("error: could not write output: No space left on device (os error 28)", "no space left in "),
        (
            "error: failed to download `aya v0.14.0`\nCould not resolve host: index",
            "cannot reach a package registry",
        ),
        ("error[E0308]: mismatched types", "the extension failed, see above"),
    ],
)
def test_what_fails_keeps_its_words_and_its_exit_code(says: str, told: str) -> None:
    attempt = [str(REPOSITORY / "tools/attempt.sh"), "the extension", "sh", "-c", 'echo "$1"; exit 7', "sh", says]
    done = subprocess.run(attempt, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert done.stderr.startswith(says)
    assert told in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].endswith(AGAIN)
