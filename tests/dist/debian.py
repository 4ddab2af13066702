"""The packages that `make dist` made, and Debians to try them in.

It must never build a package in dist/, nor try one anywhere but in a Debian made for it.
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DIST = REPOSITORY / "dist"
INSIDE = Path("/repo")  # where in_debian shows the repository
NEWCOMERS_PACKAGES = ("git", "make", "python3", "python3-venv")  # what the README asks for


def the_package(pattern: str) -> Path:
    """The one file in dist/ of this kind; AssertionError with the remedy where there is none."""
    found = list(DIST.glob(pattern))
    assert len(found) == 1, f"{DIST} has {len(found)} of {pattern}: type `make dist`"
    return found[0]


def wheel(machine: str = platform.machine(), libc: str = "manylinux") -> Path:
    """The wheel for a processor, this one's unless told, and a C library: manylinux (glibc) or musllinux."""
    return the_package(f"busyweight-*-{libc}*_{machine}.whl")


def deb() -> Path:
    """The Debian package."""
    return the_package("busyweight_*.deb")


def in_debian(script: str, *packages: str, release: str = "bookworm", keep: Path | None = None) -> str:
    """What a shell script prints in a Debian of its own, with these packages; AssertionError when it fails.

    The repository is shown at INSIDE. ``keep``: the Debian is left in this directory.
    """
    options = ["-r", release, *(["-p", ",".join(packages)] if packages else []), *(["-k", str(keep)] if keep else [])]
    done = subprocess.run(
        [REPOSITORY / "tests/dist/in-debian", *options, "sh", "-euc", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout
