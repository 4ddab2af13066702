"""WORLD. What is visible: /proc, the machine's size, and containers. It only reads."""

import os
from collections.abc import Iterator
from pathlib import Path

from agent.config.words import pool_prefix
from agent.sampling import host
from agent.sampling.capacity import quota
from agent.sampling.mounts import Mount, mounts
from agent.tools.doctor.context import CheckContext
from agent.tools.doctor.finding import Finding

# The inode of the first pid namespace (include/linux/proc_ns.h, PROC_PID_INIT_INO).
_FIRST_PID_NAMESPACE = "pid:[4026531836]"
_SEES_ALL = ("0", "off")


def mount_of(path: str, mountinfo: str) -> Mount | None:
    """The mount that shows a path; the last one on top."""
    best, found = -1, None
    for mount in mounts(mountinfo):
        point = mount.point.rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and len(point) >= best:
            best, found = len(point), mount
    return found


def hiding(mount: Mount | None) -> str:
    """``hidepid=2``, or nothing if it shows every process to everyone."""
    hidepid = mount.options.get("hidepid", "0") if mount else "0"
    return "" if hidepid in _SEES_ALL else f"hidepid={hidepid}"


def _mount_seen_by(pid: object, path: str) -> Mount | None:
    try:
        return mount_of(os.path.realpath(path), Path(f"/proc/{pid}/mountinfo").read_text(errors="replace"))
    except OSError:
        return None


def processes(context: CheckContext) -> Iterator[Finding]:
    """Whether processes can be seen, by the agent and by this user."""
    procfs = context.config.scan.procfs
    if context.found is None:
        yield Finding("fail", "processes", context.scan_error, "set scan.procfs to a mounted procfs")
        return
    here = _mount_seen_by("self", procfs)
    agents = _mount_seen_by(context.status["agent"]["pid"], procfs) if context.status else here
    hides = hiding(agents)
    why = f"{procfs} is mounted with {hides}" if hides else f"pid 1's name in {procfs} cannot be read"
    if context.seen_by_agent is False:
        yield Finding("fail", "processes", f"the agent cannot see them: {why}", _unhide(agents, here))
    elif context.seen_by_us:
        number = context.found.snapshot.processes
        what = f"visible: {number} in {procfs}" + (
            "" if here and here.kind == "proc" else ", which is not a procfs mount"
        )
        if hides and context.seen_by_agent is None and os.geteuid() == 0:
            what += f" to root; but it is mounted with {hides}"
            yield Finding("warn", "processes", what, _unhide(agents, here))
        else:
            yield Finding("ok", "processes", what + (f", despite {hides}" if hides else ""))
    elif context.seen_by_agent:
        what = f"the agent can see them, but this user cannot: {why}"
        yield Finding("warn", "processes", what, "run doctor as root for a complete check")
    else:
        yield Finding("fail", "processes", f"this user cannot see them: {why}", _unhide(agents, here))
    yield from _namespace(procfs, here)


def _unhide(agents: Mount | None, here: Mount | None) -> str:
    """What to do about a mount that hides processes from the agent."""
    if hiding(agents) and here and not hiding(here):
        return "set ProtectProc=default in a drop-in of busyweight.service: the host's own mount hides nothing"
    gid = agents.options.get("gid") if agents else None
    if gid:
        return f"run the agent in group {gid} (SupplementaryGroups= in a drop-in of busyweight.service)"
    if hiding(agents):
        return "mount it with gid=GROUP and run the agent in that group, or mount it with hidepid=0"
    return "run the agent as a user that may read it, or look for a security module that denies it"


def _namespace(procfs: str, here: Mount | None) -> Iterator[Finding]:
    if not here or here.kind != "proc":
        return
    try:
        # proc(5): the pids in another namespace's procfs are not ours.
        ours = Path(procfs, "self").readlink() == Path(str(os.getpid()))
        own = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return
    if ours and own != _FIRST_PID_NAMESPACE:
        yield Finding(
            "warn",
            "pid namespace",
            "doctor runs in a separate one and sees no process outside it",
            "run the agent on the host, or set scan.procfs to the host's /proc",
        )
    else:
        yield Finding("ok", "pid namespace", "the host's own" if ours else f"{procfs} shows a different one from ours")


def capacity(context: CheckContext) -> Iterator[Finding]:
    """What counts as full, and where the number comes from; in containers the number of cores is misleading."""
    cores, source = context.cores
    contained = host.in_container()
    for pool in context.config.all_pools:
        title, weight = pool_prefix(pool.name), pool.weight
        if weight.capacity == "slots":
            yield Finding("ok", "capacity", f"{title}all threads of all workers, counting {weight.count}")
        elif weight.capacity == "cores":
            what = f"{title}{cores} ({source}), counting {weight.count}"
            if contained:
                what += f"; but this is a container ({contained}), and the cores are the whole machine's"
                yield Finding("warn", "capacity", what, "set weight.capacity to a number")
            else:
                yield Finding("ok", "capacity", what)
        elif weight.capacity == "quota":
            limit = quota(pool.workers.cgroups)
            what = f"{limit:g} cores, the limit of its cgroups" if limit else "no limit on its cgroups, so the cores"
            yield Finding("ok", "capacity", f"{title}{what}, counting {weight.count}")
        else:
            yield Finding("ok", "capacity", f"{title}{weight.capacity:g}, as configured, counting {weight.count}")
    yield Finding("ok", "container", f"yes, by {contained}" if contained else "none detected")
