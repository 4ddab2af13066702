"""WORLD. How systemd runs the agent: the unit, its drop-ins, and settings that hide processes. Runs systemctl."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from agent.tools.doctor.context import CheckContext
from agent.tools.doctor.finding import Finding

UNIT = "busyweight.service"
BOOTED = Path("/run/systemd/system")  # sd_booted(3)
TIMEOUT_S = 10.0
PROPERTIES = (
    "LoadState,ActiveState,SubState,UnitFileState,FragmentPath,DropInPaths,NeedDaemonReload,NRestarts,MainPID,"
    "ProtectProc,ProcSubset,PrivateUsers"
)
# Settings of the shipped unit, and why other values are wrong.
WANTED = {
    "ProtectProc": ("default", "anything stricter hides the workers"),
    "ProcSubset": ("all", "pid hides the files that tell the number of cores"),
    "PrivateUsers": ("no", "it maps every other user to 65534, which breaks users and the control socket's group"),
}


def unit(context: CheckContext) -> Iterator[Finding]:
    """The unit's state, where systemd runs."""
    if not BOOTED.is_dir():
        yield Finding("ok", "systemd", "not running here, so there is no unit to check")
        return
    try:
        shown = show()
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("warn", "systemd", f"systemctl show {UNIT} failed: {error}")
        return
    yield from judge(shown, context.status["agent"]["pid"] if context.status else None)


def show() -> dict[str, str]:
    """The unit's properties, by systemctl(1). Raises OSError or SubprocessError."""
    argv = ["systemctl", "show", "--no-pager", f"--property={PROPERTIES}", UNIT]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)  # noqa: S603 - no input
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def judge(shown: dict[str, str], pid: int | None) -> Iterator[Finding]:
    """What the properties say. ``pid`` is the agent that answers on the control socket."""
    if shown.get("LoadState") != "loaded":
        what = f"{UNIT} is not installed ({shown.get('LoadState') or 'unknown'})"
        yield Finding("warn", "systemd", what, "install it from systemd/, so that the agent starts at boot")
        return
    state = f"{shown['ActiveState']} ({shown['SubState']}), {shown['UnitFileState'] or 'static'}"
    drop_ins = shown["DropInPaths"] or "no drop-ins"
    what = f"{UNIT} is {state}, restarted {shown['NRestarts']} times; {shown['FragmentPath']}, {drop_ins}"
    main = shown["MainPID"]
    if shown["ActiveState"] == "failed":
        yield Finding("fail", "systemd", what, f"journalctl -u {UNIT} says why; then systemctl reset-failed {UNIT}")
    elif shown["ActiveState"] not in ("active", "reloading"):
        yield Finding("fail", "systemd", what, f"systemctl enable --now {UNIT}")
    elif shown["UnitFileState"] == "disabled":
        yield Finding("warn", "systemd", f"{what}; it will not start at boot", f"systemctl enable {UNIT}")
    elif pid is not None and main not in ("0", str(pid)):
        what = f"{UNIT} is pid {main}, and the agent at the control socket is pid {pid}"
        yield Finding("warn", "systemd", what, "stop the one that was started by hand")
    else:
        yield Finding("ok", "systemd", what)
    if shown["NeedDaemonReload"] == "yes":
        what = "the unit's files have changed since systemd read them"
        yield Finding("warn", "systemd", what, f"systemctl daemon-reload && systemctl restart {UNIT}")
    for name, (wanted, why) in WANTED.items():
        found = shown.get(name) or wanted
        if found != wanted:
            yield Finding("warn", "systemd", f"{name}={found}: {why}", f"set {name}={wanted} in a drop-in, and restart")
