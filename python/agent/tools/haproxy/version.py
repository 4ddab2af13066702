"""WORLD. The HAProxy version: as given, or of the HAProxy on this machine.

It runs only `haproxy -v`, and must not fail if there is none.
"""

import os
import re
import shutil
import subprocess

# Where daemons are installed, often outside an ordinary user's path.
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_WAITS_S = 5.0


def parse_version(text: str) -> tuple[int, ...]:
    """`3.2`, `3.2.1` or `3.4-dev5` -> its numbers. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?(?:[-~+].*)?", text)
    if not match:
        raise ValueError(text)
    return tuple(int(part) for part in match.groups() if part is not None)


def installed_version() -> tuple[int, ...]:
    """The version of the HAProxy on this machine, () if there is none or it does not tell."""
    program = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    if not program:
        return ()
    try:
        told = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=_WAITS_S, check=False).stdout  # noqa: S603 - no shell
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ()
    match = re.search(r"version (\S+)", told)
    try:
        return parse_version(match[1]) if match else ()
    except ValueError:
        return ()
