"""A program of another Debian, run beside this machine's own: one tree, once `trees` has made it.

It must never change the tree, nor leave anything mounted.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]

# $0 the tree and $1 the empty directory to mount on, relative to here so that no comma or colon is in the options;
# then the directories to show, --, the directory to be in, and the command.
_ENTER = """
set -eu
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$0,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
root=$PWD/$1/root
shift
for place in proc sys dev; do mount --rbind "/$place" "$root/$place"; done
cp --remove-destination --dereference /etc/hosts /etc/resolv.conf "$root/etc"
while [ "$1" != -- ]; do
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
    shift
done
shift
exec chroot "$root" "$@"
"""

# What says how to reach the registries, and whether all this is CI.
_PASSED = re.compile(r"CI|PIP_\w+|SSL_CERT_\w+|[a-z]+_proxy|[A-Z]+_PROXY")

# What is asked for each version, and where in the answer it stands.
_VERSIONS = {
    "debian": (["cat", "/etc/debian_version"], r"(\S+)"),
    "systemd": (["systemctl", "--version"], r"systemd (\d+)"),
    "python": (["python3", "--version"], r"Python (\S+)"),
    "ruby": (["ruby", "--version"], r"ruby (\d[\d.]*)"),
    "sidekiq": (["sidekiq", "--version"], r"Sidekiq (\S+)"),
    "redis": (["redis-server", "--version"], r"v=(\S+)"),
    "haproxy": (["haproxy", "-v"], r"version (\d[\w.]*)"),
    "postgres": (["sh", "-c", "/usr/lib/postgresql/*/bin/postgres --version"], r"\(PostgreSQL\) (\S+)"),
    "rq": (["rq", "--version"], r"version (\S+)"),
}


class TreeError(Exception):
    """A tree cannot be had; the message says why, and what to do."""


@dataclass(frozen=True)
class Haproxy:
    """A HAProxy of a tree: `program` is its path inside."""

    version: str
    tree: Tree
    program: str


@dataclass(frozen=True)
class Tree:
    """One Debian; `path` is its root, which may be booted under an overlay, and must not be written to."""

    release: str
    path: Path

    def argv(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str = "/",
    ) -> list[str]:
        """The command that becomes this command of the tree: its pid is the one that it is started with.

        Its environment is a plain one and `env`; `cwd` is a path inside.
        """
        places = (Path("/tmp"), Path(tempfile.gettempdir()), REPOSITORY)  # noqa: S108 - as this machine's programs
        shown = {str(place.resolve()) for place in places}
        shown = {place for place in shown if not any(place.startswith(f"{other}/") for other in shown)}
        variables = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            **{name: value for name, value in os.environ.items() if _PASSED.fullmatch(name)},
            **(env or {}),
        }
        clean = ["env", "-i", "-C", str(cwd), *(f"{name}={value}" for name, value in variables.items())]
        return [
            *("env", "-C", str(self.path.parent), "unshare", "--mount", "--propagation", "private"),
            *("sh", "-c", _ENTER, self.path.name, "mounted", *sorted(shown), "--", *clean, *map(str, command)),
        ]

    def popen(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str = "/",
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Starts a program of the tree; whoever starts it stops it, by its pid. The options are Popen's."""
        return subprocess.Popen(self.argv(command, env=env, cwd=cwd), **options)

    def run(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | str = "/",
        check: bool = True,
        deadline_s: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program of the tree to its end, and returns it with its text; TreeError when it fails."""
        done = subprocess.run(
            self.argv(command, env=env, cwd=cwd),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        if check and done.returncode != 0:
            words = " ".join(map(str, command))
            raise TreeError(f"{self.release}: `{words}` ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def program(self, name: str) -> str:
        """The path of a program inside; TreeError where there is none."""
        for place in ("usr/local/bin", "usr/sbin", "usr/bin"):
            if os.path.lexists(self.path / place / name):  # a link may point to what is not so outside
                return f"/{place}/{name}"
        raise TreeError(f"{self.release} has no {name}")

    @functools.cache  # noqa: B019 - a handful of trees, kept as long as the process
    def versions(self) -> dict[str, str]:
        """What is in the tree: the keys are those of _VERSIONS."""
        return {name: self._version(*asked) for name, asked in _VERSIONS.items()}

    @functools.cache  # noqa: B019 - as above
    def haproxies(self) -> list[Haproxy]:
        """The release's own HAProxy; in sid experimental's as well."""
        own = Haproxy(self.versions()["haproxy"], self, "/usr/sbin/haproxy")
        program = "/opt/haproxy/usr/sbin/haproxy"
        if not (self.path / program.lstrip("/")).exists():
            return [own]
        return [own, Haproxy(self._version([program, "-v"], _VERSIONS["haproxy"][1]), self, program)]

    def _version(self, command: Sequence[str], pattern: str) -> str:
        done = self.run(command)
        found = re.search(pattern, done.stdout + done.stderr)
        if found is None:
            raise TreeError(f"{self.release}: {command} says no version: {done.stdout}{done.stderr}")
        return found[1]
