"""WORLD. Facts about this machine: its users, its limit of open files, and the scanner that fits."""

import grp
import os
import pwd
import resource

from agent import _scan
from agent.config.schema import Config, Pool, Weight, Workers
from agent.config.toml import Checks

# Descriptors reserved for everything except kept titles: listeners, the control socket, reads in progress, and what
# libraries open now and then.
FDS_SPARED = 64

# Keeping more title files open would only cost memory; the others are opened for each read.
FDS_WANTED = 16_384


def user_id(user: str | int) -> int | None:
    """A user's number, or None if there is no such user."""
    if isinstance(user, int):
        return user
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def user_name(uid: int | None) -> str:
    """A user's name, or the uid if it has none."""
    if uid is None:
        return "?"
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_id(group: str) -> int | None:
    """A group's number, or None if there is no such group."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def selector(workers: Workers, weight: Weight | None = None) -> _scan.Selector:
    """The scanner's selector for a pool's workers and for the data that its weight needs. Raises ValueError."""
    uids = [uid for user in workers.users if (uid := user_id(user)) is not None]
    return _scan.Selector(
        workers.preset,
        comm=list(workers.comm),
        users=uids,
        cgroups=list(workers.cgroups),
        pattern=workers.pattern,
        busy_states=list(workers.busy_states),
        now=workers.now == "cpu",
        cores=weight is not None and weight.count == "cpu",
        others=list(weight.others) if weight else [],
    )


def _selector_fault(workers: Workers) -> tuple[str, str] | None:
    for key, part in (("comm", Workers(comm=workers.comm)), ("pattern", workers)):
        try:
            selector(part)
        except ValueError as error:
            return key, str(error)
    return None


def _group_fault(group: str) -> str | None:
    return None if group_id(group) is not None else f'found "{group}"; no such group on this host'


CHECKS = Checks(
    user=lambda user: None if user_id(user) is not None else f'found "{user}"; no such user on this host',
    group=_group_fault,
    workers=_selector_fault,
)


def open_scanner(config: Config, *, detail: bool = False, former: _scan.Scanner | None = None) -> _scan.Scanner:
    """The scanner for a configuration's pools, which may take over a previous scanner's BPF programs. Afterwards the
    process no longer has the privileges to load programs.

    Raises OSError if there is no such root.
    """
    pools: tuple[Pool, ...] = config.all_pools
    return _scan.Scanner(
        config.scan.procfs,
        config.scan.discovery,
        [selector(pool.workers, pool.weight) for pool in pools],
        kept_max=max(0, _raise_fd_limit() - FDS_SPARED - (config.limits.max_connections if config.pools else 0)),
        detail=detail,
        former=former,
        drop_privileges=True,
    )


def _raise_fd_limit() -> int:
    """Raises the limit of open files as far as permitted and useful. Returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    wanted = FDS_WANTED if unlimited else min(hard, FDS_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return min(wanted, soft) if soft != resource.RLIM_INFINITY else wanted


def in_container() -> str | None:
    """The evidence that this is a container, or None."""
    if os.path.exists("/run/.containerenv") or os.path.exists("/.dockerenv"):  # noqa: PTH110
        return "a container's marker file"
    try:
        with open("/proc/1/environ", "rb") as environ:  # noqa: PTH123
            if b"container=" in environ.read():
                return "pid 1's environment"
    except OSError:
        pass
    # systemd's name for it is in lower case.
    return "the environment variable container" if "container" in os.environ else None
