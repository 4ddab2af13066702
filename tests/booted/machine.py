"""A throw-away machine for tests: this machine's own root, or another, under a copy-on-write overlay, booted.

systemd-nspawn boots it as root in about a second, from a mount namespace of its own: the tmpfs, the overlay
and whatever the container mounts are gone with the last process of it, however the tests end. Its network is
private (a loopback of its own), so any port is free and nothing of the host's is reached. It must never write
to the host's root, never register with the host's systemd, and never wait without a deadline.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .host import (
    COMMAND_DEADLINE_S,
    NotInTimeError,
    cgroup_is_removed,
    children,
    own_cgroups,
    status,
    wait_until,
)
from .software import COMMAND, PYTHON, agent_launcher, interpreter, shown, with_interpreter

REPOSITORY = Path(__file__).resolve().parents[2]
UNITS = REPOSITORY / "systemd"
BOOT_DEADLINE_S = 120
STOP_DEADLINE_S = 30
HOST_PROC = "/host-proc"
# What this machine may have of an agent of its own: the tests' machine begins without. A directory that the overlay
# only shows cannot be moved by systemd, as it does with that of the state.
OF_ITS_OWN = (
    "etc/busyweight",
    "etc/systemd/system/busyweight.*",
    "etc/systemd/system/*.wants/busyweight.*",
    "usr/lib/systemd/system/busyweight.*",
    "usr/lib/busyweight",
    "usr/bin/busyweight",
    "var/lib/busyweight",
    "var/lib/private/busyweight",
)
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


# systemd-nspawn alone leaves its machine running when it is killed, so it gets a pid namespace to be the init
# of: with it, however it ends, all of the machine ends, and should the tests be killed, it is killed too.
_ISOLATED = [
    "setpriv",
    "--pdeathsig=KILL",
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
]

# A tmpfs over /run/systemd/nspawn keeps its droppings off the host. Timers would start package updates in the
# middle of a test. The capabilities and the host's own /proc are for eBPF: its programs see the host's pids.
_BOOT = """
set -eu
for group in $CGROUPS; do echo $$ > "$group/cgroup.procs"; done
mount -t tmpfs -o mode=755 tmpfs "$STAGE"
mkdir "$STAGE/upper" "$STAGE/work" "$STAGE/root"
mount -t overlay -o "lowerdir=$LOWER,upperdir=$STAGE/upper,workdir=$STAGE/work" overlay "$STAGE/root"
(cd "$STAGE/root" && rm -rf $WITHOUT)
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
ln -sf /dev/null "$STAGE/root/etc/systemd/system/timers.target"
mkdir "$STAGE/proc"
mount --bind /proc "$STAGE/proc"
mount -t proc proc /proc
exec systemd-nspawn --quiet --directory="$STAGE/root" --machine=busyweight --boot --register=no --keep-unit \
    --private-network --link-journal=no --resolv-conf=off --timezone=off --console=pipe \
    --capability=CAP_BPF,CAP_PERFMON --system-call-filter=bpf --bind-ro="$STAGE/proc:$HOST_PROC" "$@"
"""


class CommandError(AssertionError):
    """A command inside failed."""

    def __init__(self, argv: tuple[object, ...], done: subprocess.CompletedProcess[str]) -> None:
        command = " ".join(map(str, argv))
        super().__init__(f"`{command}` ended with {done.returncode}\n{done.stdout}{done.stderr}")


class BootError(AssertionError):
    """The machine did not come up."""

    def __init__(self, why: object, console: Path) -> None:
        super().__init__(f"{why}\nconsole:\n{console.read_text(errors='replace')}")


class Machine:
    """One booted machine, removed without a trace at the end of its `with` block.

    With this machine's own root it has the tests' interpreter and the agent; another root is booted as it is, and
    with the unified hierarchy of cgroups, the only one that systemd knows from 258 on.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.leader = 0  # the host's pid of the machine's pid 1
        self._root = root
        self._stage = Path(tempfile.mkdtemp(prefix="busyweight-booted-"))
        self._console = self._stage.with_suffix(".console")
        self._cgroups = [place / self._stage.name for place in own_cgroups()]
        self._isolated: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        try:
            self._boot()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    # -- life -----------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        """Boot and wait until systemd has nothing left to start; BootError with what the console said."""
        for group in self._cgroups:
            group.mkdir()
        ours = self._root == Path("/")
        with self._console.open("wb") as console:
            self._isolated = subprocess.Popen(
                [*_ISOLATED, "sh", "-c", _BOOT, "boot", *(shown() if ours else ()), "--", "--unit=basic.target"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={
                    "PATH": SYSTEM_PATH,
                    "STAGE": str(self._stage),
                    "LOWER": str(self._root),
                    "WITHOUT": " ".join(OF_ITS_OWN) if ours else "",
                    "HOST_PROC": HOST_PROC,
                    "CGROUPS": " ".join(map(str, self._cgroups)),
                    **({} if ours else {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}),
                },
            )
        try:
            wait_until(self._find_leader, "the machine's init is running", BOOT_DEADLINE_S)
            wait_until(self._is_up, "the machine is up", BOOT_DEADLINE_S)
        except NotInTimeError as late:
            raise BootError(late, self._console) from None
        if ours:
            self.write(PYTHON, interpreter(), 0o755)

    def poweroff(self) -> None:
        """Shut the machine down in order, as an administrator would; TimeoutExpired where it hangs."""
        assert self._isolated is not None
        [nspawn] = children(self._isolated.pid)
        os.kill(nspawn, signal.SIGTERM)  # it passes this on as a request to halt
        self._isolated.wait(STOP_DEADLINE_S)

    def _remove(self) -> None:
        if self._isolated is not None:
            self._isolated.kill()
            self._isolated.wait(STOP_DEADLINE_S)
        for group in self._cgroups:
            wait_until(functools.partial(cgroup_is_removed, group), f"{group} is empty", STOP_DEADLINE_S)
        self._console.unlink(missing_ok=True)
        self._stage.rmdir()  # outside the machine's mount namespace it has always been empty

    def _find_leader(self) -> bool:
        assert self._isolated is not None
        if self._isolated.poll() is not None:
            why = f"systemd-nspawn ended with {self._isolated.returncode}"
            raise BootError(why, self._console)
        for nspawn in children(self._isolated.pid):
            for child in children(nspawn):
                # nspawn has short-lived helpers; init is the one that has become systemd, and 1 at home.
                fields = status(child)
                if fields.get("Name") == "systemd" and fields["NSpid"].split()[-1] == "1":
                    self.leader = child
        return self.leader != 0

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).stdout.strip() in (
            "running",
            "degraded",
        )

    # -- use ------------------------------------------------------------------------------------------------

    def entered(self, *argv: str | Path) -> list[str]:
        """The command that runs a command inside, as root."""
        return ["nsenter", f"--target={self.leader}", "--all", "--", *map(str, argv)]

    def run(
        self,
        *argv: str | Path,
        check: bool = True,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        deadline_s: float = COMMAND_DEADLINE_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root and return it with its text; CommandError when it fails."""
        done = subprocess.run(
            self.entered(*argv),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
            env={"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "SYSTEMD_PAGER": "", **(env or {})},
        )
        if check and done.returncode != 0:
            raise CommandError(argv, done)
        return done

    def move(self, pid: int, group: Path) -> None:
        """Put a process of the machine into a cgroup of the host's; ProcessLookupError where there is none."""
        if pid == 0:  # would be the writer
            raise ProcessLookupError
        # The kernel reads the number as in the writer's own pid namespace, and the path is the host's.
        write = ["sh", "-c", 'echo "$1" > "$2/cgroup.procs"', "sh", str(pid), str(group)]
        written = subprocess.run(
            ["nsenter", f"--target={self.leader}", "--pid", "--", *write], capture_output=True, text=True, check=False
        )
        if written.returncode != 0:
            raise ProcessLookupError(written.stderr)

    def path(self, inside: str | Path) -> Path:
        """Where a path of the machine is for the tests; Unix sockets can be connected to there as well."""
        return Path(f"/proc/{self.leader}/root") / Path(inside).relative_to("/")

    def write(self, inside: str | Path, text: str, mode: int = 0o644) -> None:
        """Write a file inside, with the directories it needs."""
        place = self.path(inside)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def copy(self, source: Path, inside: str | Path) -> None:
        """Copy a file of the tests into the machine, with its mode."""
        place = self.path(inside)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)

    def install_units(self) -> None:
        """Put the project's units where an administrator would, and have systemd read them."""
        for unit in ("busyweight.service", "busyweight.socket"):
            self.copy(UNITS / unit, f"/etc/systemd/system/{unit}")
        self.run("systemctl", "daemon-reload")

    @contextmanager
    def drop_in(self, unit: str, text: str) -> Iterator[None]:
        """Have a drop-in of a unit in force for the time of a `with` block."""
        name = f"/etc/systemd/system/{unit}.d/test.conf"
        self.write(name, text)
        self.run("systemctl", "daemon-reload")
        try:
            yield
        finally:
            self.path(name).unlink()
            self.run("systemctl", "daemon-reload")

    def install_agent(self) -> None:
        """Install the agent that this interpreter has as the command the unit starts."""
        self.write(COMMAND, agent_launcher(), 0o755)

    def install_script(self, source: Path, inside: str | Path) -> None:
        """Install a Python script of the tests as a command, run by the tests' own interpreter."""
        self.write(inside, with_interpreter(source), 0o755)

    def journal(self, unit: str | None = None) -> str:
        """The journal's text, of one unit or of everything."""
        self.run("journalctl", "--sync")
        return self.run(
            "journalctl", "--no-pager", "--output=short-monotonic", *(["--unit", unit] if unit else [])
        ).stdout

    def show(self, unit: str, name: str) -> str:
        """One property of a unit, as systemctl words it."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()

    def wait_for_state(self, unit: str, state: str) -> None:
        """Wait until a unit is in a state such as `active` or `inactive`."""
        wait_until(lambda: self.show(unit, "ActiveState") == state, f"{unit} is {state}")
