"""What a configuration needs from the machine before it can be used: numbers for names, what counts as full, and a
scanner.

Used at the start, at every reload, and to check whether another agent could start. It keeps nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent._scan import Scanner
from agent.config.schema import Config, Workers
from agent.config.words import os_error
from agent.sampling import capacity, host
from agent.weight.policy import Rule

# How long the start waits for the first sample before polls are answered without one; well within the unit's
# TimeoutStartSec=, or a hung scan would have systemd restart the agent for ever. After the same time a reload logs that
# it is still waiting.
FIRST_SAMPLE_S = 10.0


class StartError(RuntimeError):
    """The agent cannot start, or not with this configuration. The text says why, on one line."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What counts as full on this machine: its cores, where that number comes from, and each pool's rule."""

    cores: int
    source: str
    rules: list[tuple[str, Rule]]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration with numbers for names, the group that may use the control socket, and what counts as full."""

    config: Config
    gid: int | None
    counted: Counted


def load_whole(load: Callable[[], Config]) -> Loaded:
    """Reads a configuration, and reads what it needs from this machine. May take long: call it on a thread. Raises
    ConfigError and StartError."""
    config, gid = in_numbers(load())
    try:
        return Loaded(config, gid, count(config))
    except OSError as error:
        raise StartError(f"cannot determine this machine's capacity: {os_error(error)}") from None


def count(config: Config) -> Counted:
    """What counts as full now. Raises OSError if that cannot be read at the moment."""
    cores, source = capacity.cores()
    return Counted(cores, source, config.rules(cores, capacity.quota))


def in_numbers(config: Config) -> tuple[Config, int | None]:
    """The configuration with uids for user names, and the gid of the group that may use the control socket, so that
    no lookups are needed later. May take as long as the name service (LDAP, sssd) does. Raises StartError."""

    def number(user: str | int) -> int:
        if (uid := host.user_id(user)) is None:
            raise StartError(f'workers of user "{user}": that user no longer exists')
        return uid

    def numbered(workers: Workers) -> Workers:
        return replace(workers, users=tuple(number(user) for user in workers.users))

    pools = tuple(replace(pool, workers=numbered(pool.workers)) for pool in config.pools)
    group = config.control.group
    gid = host.group_id(group) if group else None
    return replace(config, workers=numbered(config.workers), pools=pools), gid


def open_scanner(config: Config, former: Scanner | None = None) -> Scanner:
    """The scanner that a configuration asks for. Raises StartError."""
    try:
        return host.open_scanner(config, former=former)
    except (OSError, ValueError) as error:
        raise StartError(str(error)) from None
