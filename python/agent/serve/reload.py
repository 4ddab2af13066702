"""Takes a new configuration into the running agent: whole or not at all.

What can fail comes first, and undoes nothing when it does. No listener that stays is touched,
so no poll is lost; a new scanner takes over when it has its first sample.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent._scan import Answerer, Scanner, Snapshot
from agent.config import values
from agent.config.schema import Config, ConfigError, Workers, warnings
from agent.operate import status
from agent.operate.threads import NoThreadError, aside
from agent.sampling import host
from agent.sampling.sampler import Sampler
from agent.serve import logs
from agent.serve.server import ListenError, open_listener, open_listeners

if TYPE_CHECKING:
    from agent.serve.daemon import Daemon
    from agent.serve.metrics import Endpoint

log = logging.getLogger("busyweight")


# From then on it is told that a new scanner has no sample yet.
LATE_S = 10.0


class StartError(RuntimeError):
    """The agent cannot start, or not so. The text says why, on one line."""


def in_numbers(config: Config) -> tuple[Config, int | None]:
    """The configuration with its users' numbers for their names, and the number of the group
    that may command: what follows asks nobody. May take as long as those who know the names
    (LDAP, sssd) do. Raises StartError."""

    def number(user: str | int) -> int:
        if (uid := host.user_id(user)) is None:
            raise StartError(f'workers of user "{user}": there is no such user any more')
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


def open_metrics(daemon: "Daemon", config: Config) -> "Endpoint | None":
    """Where Prometheus may read, if a configuration says so; the one that is open if that is
    there. Raises StartError."""
    address = config.metrics.listen
    if address is None:
        return None
    if daemon.metrics and daemon.metrics.wanted == address:
        return daemon.metrics
    try:
        from agent.serve import metrics
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise StartError(
            f'metrics.listen = "{values.show_address(address)}" needs the library prometheus-client: '
            "pip install 'busyweight[metrics]', or apt install python3-prometheus-client"
        ) from None
    leaving = [daemon.metrics.listener] if daemon.metrics else []
    try:
        listener = open_listener(address, metrics.BACKLOG, beside=leaving)
    except ListenError as error:
        raise StartError(f"metrics: {error}") from None
    endpoint = metrics.Endpoint(listener, lambda: status.report(daemon), wanted=address)
    log.info("metrics on %s", values.show_address(endpoint.address))
    return endpoint


class Reloader:
    """``load`` reads the configuration anew, or raises ConfigError. ``outcome`` tells how the
    last reload went: ``at`` (of the wall clock), ``ok`` and ``faults``. ``totals`` has how many
    were ``ok`` and ``failed``, and when the present configuration was ``taken``."""

    def __init__(self, daemon: "Daemon", load: Callable[[], Config]) -> None:
        self._daemon = daemon
        self._load = load
        self._successor: Sampler | None = None
        self._late: asyncio.TimerHandle | None = None
        self.outcome: dict[str, Any] | None = None
        self.totals: dict[str, float] = {"ok": 0, "failed": 0, "taken": time.time()}

    async def reload(self) -> None:
        """Takes the configuration as it is now. It is read aside: a disk, or who knows the users'
        names, may take long."""
        faults: list[str] = []
        late = asyncio.get_running_loop().call_later(
            LATE_S, log.warning, "the configuration is still being read; the former one is in force meanwhile"
        )
        try:
            self._apply(*await aside(lambda: in_numbers(self._load())))
        except ConfigError as error:
            faults = error.faults
        except (ListenError, StartError, NoThreadError) as error:
            faults = [str(error)]
        except Exception as error:
            log.exception("a fault of the agent's own")
            faults = [f"the agent failed: {error!r}"]
        finally:
            late.cancel()
        self.outcome = {"at": time.time(), "ok": not faults, "faults": faults}
        self.totals["failed" if faults else "ok"] += 1
        if not faults:
            self.totals["taken"] = self.outcome["at"]
        for fault in faults:
            log.error("%s", fault)
        if faults:
            log.error("the configuration is not taken; the former one stays")
        else:
            log.info("reloaded the configuration")

    def close(self) -> None:
        """Ends what has not taken over yet."""
        if self._late:
            self._late.cancel()
        if self._successor:
            self._successor.close()
            self._successor = None

    def _apply(self, config: Config, gid: int | None) -> None:
        daemon = self._daemon
        # Sockets that systemd passed are systemd's to add and to remove.
        wanted = tuple(daemon.listeners) if daemon.sockets_passed else config.listen
        Answerer(list(config.allow))  # fails where the one in force would
        opened = {} if daemon.sockets_passed else open_listeners(wanted, config.limits.backlog, have=daemon.listeners)
        # One that is to take over already has changed what the kernel looks for.
        same = self._successor is None and _sought(config) == _sought(daemon.config)
        metrics = daemon.metrics
        try:
            metrics = open_metrics(daemon, config)
            # The last that can fail, since it changes what the kernel looks for.
            scanner = None if same else open_scanner(config, daemon.sampler.scanner)
        except Exception:
            for listener in opened.values():
                listener.close()
            if metrics and metrics is not daemon.metrics:
                metrics.close()
            raise
        logs.set_up(config.log.level, config.log.format)
        gone = [address for address in daemon.listeners if address not in wanted or address in opened]
        leaving = [daemon.listeners.pop(address) for address in gone]
        daemon.listen(opened)
        for listener in leaving:
            daemon.server.remove(listener)
        for listener in daemon.listeners.values():
            listener.listen(config.limits.backlog)
        daemon.publish(metrics)
        daemon.answerer.configure(list(config.allow))
        daemon.server.owing_max = config.limits.max_connections
        daemon.server.wait_at_most_s = config.scan.wait_at_most
        daemon.server.deadline_s = config.limits.deadline
        for warning in warnings(config):
            log.warning("%s", warning)
        daemon.warn_of_passed_sockets(config)
        self.close()
        if scanner is None:
            daemon.adopt(config, gid)
        else:
            # The former scanner serves until the new one has its first sample.
            self._successor = Sampler(scanner, lambda snapshot, why: self._succeed(config, gid, snapshot, why))
            self._successor.start()
            self._late = asyncio.get_running_loop().call_later(
                LATE_S,
                log.warning,
                "the new configuration still waits for its first sample; the former one answers meanwhile",
            )

    def _succeed(self, config: Config, gid: int | None, snapshot: Snapshot | None, why: str) -> None:
        """The new scanner's first scan ended: it takes over."""
        if self._successor is None:
            return
        scanner = self._successor.scanner
        self._successor = None
        self.close()
        self._daemon.adopt(config, gid, scanner)
        self._daemon.sampled(snapshot, why)


def _sought(config: Config) -> tuple[object, ...]:
    """What a scanner depends on."""
    return config.scan.procfs, config.scan.discovery, [pool.workers for pool in config.all_pools]
