"""PURE. TOML -> one frozen Config, or every fault at once; and back.

What depends on the machine (whether a user exists, whether a pattern compiles) is checked through :class:`Checks`,
which the caller passes in.
"""

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agent.config import values
from agent.config.schema import (
    KINDS,
    MAX_POOLS,
    Config,
    Control,
    Limits,
    Log,
    Metrics,
    Pool,
    Reply,
    Scan,
    Weight,
    Workers,
)
from agent.config.values import Kind, Wrong

# Programs that people will try although their titles do not show whether they are busy. Those that run Active Job can
# be made to show it.
_OR_APPEND = ', or append it to the title with contrib/active_job_live_title.rb and set preset = "busyweight"'
SILENT_PROGRAMS = {
    "puma": "its control server (pumactl stats) or GET /stats",
    "unicorn": "raindrops' Raindrops::Middleware",
    "passenger": "passenger-status",
    "solid_queue": "Mission Control, or its tables solid_queue_processes and solid_queue_claimed_executions"
    + _OR_APPEND,
    "good_job": "its dashboard or its health check port" + _OR_APPEND,
    "delayed_job": "its table delayed_jobs" + _OR_APPEND,
    "que": "Que.worker_states in SQL",
    "shoryuken": "the queue's own metrics in CloudWatch",
    "dramatiq": "its Prometheus middleware",
    "celery": "celery inspect active",
    "gunicorn": "its statsd option",
    "php-fpm": "its pm.status_path page",
}


class ConfigError(ValueError):
    """The configuration is wrong. ``faults`` has every error, each as one line for the operator."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Checks:
    """Checks that depend on the machine. Each returns what is wrong, or None; ``workers`` also names the key."""

    user: Callable[[str | int], str | None] = lambda _: None
    group: Callable[[str], str | None] = lambda _: None
    workers: Callable[[Workers], tuple[str, str] | None] = lambda _: None


_POOL_KINDS = KINDS["workers"] | KINDS["workers.custom"] | KINDS["weight"]


class _Reader:
    """Parses tables according to the kinds of their keys, and collects the errors."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.faults: list[str] = []
        self._faulty: set[str] = set()

    def fault(self, key: str, text: str) -> None:
        self._faulty.add(key)
        self.faults.append(f"{self._where}: {key}: {text}")

    def good(self, *keys: str) -> bool:
        """Whether these keys can be checked together: none has an error of its own."""
        return self._faulty.isdisjoint(keys)

    def table(self, data: Mapping[str, Any], name: str, known: Mapping[str, Kind[Any]]) -> dict[str, Any]:
        """The values of one table's known keys; the caller reads its sub-tables."""
        read = {}
        for key, found in data.items():
            path = f"{name}.{key}" if name else key
            kind = known.get(key)
            if kind is None:
                if "." in key or (path not in KINDS and path != "pools"):
                    self.fault(path, f"unknown key; allowed here: {', '.join(self._allowed(name, known))}")
                continue
            try:
                read[key] = kind(found)
            except Wrong as wrong:
                self.fault(path, f"found {_shown(found)}; {self._remedy(key, found, wrong)}")
        return read

    def sub(self, data: Mapping[str, Any], key: str, path: str) -> Mapping[str, Any]:
        """A sub-table; if the value is not a table, an empty one and an error."""
        found = data.get(key, {})
        if not isinstance(found, dict):
            self.fault(path, f"found {_shown(found)}; allowed: a table, written [{path}]")
            return {}
        return found

    @staticmethod
    def _allowed(name: str, known: Mapping[str, Kind[Any]]) -> Iterator[str]:
        yield from known
        prefix = f"{name}." if name else ""
        for table in [*KINDS, "pools"]:
            rest = table.removeprefix(prefix)
            if table and table.startswith(prefix) and "." not in rest:
                yield f"[{table}]"

    @staticmethod
    def _remedy(key: str, found: object, wrong: Wrong) -> str:
        if key == "preset" and isinstance(found, str):
            for program, interface in SILENT_PROGRAMS.items():
                if _plain(program) == _plain(found):
                    return f"its titles do not show whether it is busy; ask {interface}; allowed: {wrong}"
        return f"allowed: {wrong}"


def _plain(name: str) -> str:
    """A program's name, however people write it."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _shown(found: object) -> str:
    """A value as written in the file, shortened."""
    try:
        shown = json.dumps(found, ensure_ascii=False)
    except TypeError:
        shown = str(found)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def parse(text: str, where: str, checks: Checks = Checks()) -> Config:
    """Parses a configuration file's text. ``where`` names the file in error messages.

    Raises ConfigError with every error.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number with too many digits
        raise ConfigError([f"{where}: not TOML: {error}"]) from None
    reader = _Reader(where)
    config = _read(reader, data)
    _check_weight(reader, "", config.weight, config.workers.cgroups)
    _check_workers(reader, "", config.workers, checks)
    for pool in config.pools:
        # What a pool inherits unchanged was checked where it is set.
        if pool.weight != config.weight or pool.workers.cgroups != config.workers.cgroups:
            _check_weight(reader, pool.name, pool.weight, pool.workers.cgroups)
        if pool.workers != config.workers:
            _check_workers(reader, pool.name, pool.workers, checks)
    if config.control.group and (why := checks.group(config.control.group)):
        reader.fault("control.group", why)
    if reader.faults:
        raise ConfigError(reader.faults)
    return config


def _read(reader: _Reader, data: Mapping[str, Any]) -> Config:
    top = reader.table(data, "", KINDS[""])
    tables = {name: reader.sub(data, name, name) for name in KINDS if name and "." not in name}
    custom = reader.table(
        reader.sub(tables["workers"], "custom", "workers.custom"), "workers.custom", KINDS["workers.custom"]
    )
    read = {name: reader.table(table, name, KINDS[name]) for name, table in tables.items()}
    workers = Workers(**read["workers"], **custom)
    weight = Weight(**read["weight"])
    pools = reader.sub(data, "pools", "pools")
    if len(pools) > MAX_POOLS:
        reader.fault("pools", f"found {len(pools)}; allowed: at most {MAX_POOLS}")
    if "listen" in top:
        listen = top["listen"]
        if not listen:
            reader.fault("listen", "found []; allowed: at least one address")
        for address in sorted({a for a in listen if a[1] and listen.count(a) > 1}):
            reader.fault("listen", f'found "{values.show_address(address)}" twice; allowed: each address once')
    return Config(
        **top,
        workers=workers,
        weight=weight,
        scan=Scan(**read["scan"]),
        reply=Reply(**read["reply"]),
        limits=Limits(**read["limits"]),
        control=Control(**read["control"]),
        log=Log(**read["log"]),
        metrics=Metrics(**read["metrics"]),
        pools=tuple(_pool(reader, name, reader.sub(pools, name, f"pools.{name}"), workers, weight) for name in pools),
    )


def _pool(reader: _Reader, name: str, data: Mapping[str, Any], workers: Workers, weight: Weight) -> Pool:
    """A named pool. It inherits missing keys from [workers] and [weight]; but a pool with its own preset uses that
    preset's process names, not those of another program."""
    path = f"pools.{name}"
    if not name or not name.isascii() or not name.isprintable() or " " in name:
        reader.fault(path, "a pool's name must be one word of printable ASCII, because agent-send sends it on a line")
    read = reader.table(data, path, _POOL_KINDS)
    own = {k: v for k, v in read.items() if k not in KINDS["weight"]}
    if "preset" in own:
        own = {"comm": (), "pattern": "", "busy_states": (), **own}
    inherited = {k: getattr(workers, k) for k in Workers.__slots__}
    weights = {k: getattr(weight, k) for k in Weight.__slots__}
    weights |= {k: v for k, v in read.items() if k in KINDS["weight"]}
    return Pool(name, Workers(**(inherited | own)), Weight(**weights))


def _at(pool: str, table: str, key: str) -> str:
    """A key's path; a pool's keys are flat."""
    return f"pools.{pool}.{key}" if pool else f"{table}.{key}"


def _check_weight(reader: _Reader, pool: str, weight: Weight, cgroups: tuple[str, ...]) -> None:
    """Checks that involve several keys."""
    related = [_at(name, "weight", key) for name in {"", pool} for key in ("count", "capacity")]
    if reader.good(*related) and weight.capacity == "slots" and weight.count != "threads":
        reader.fault(_at(pool, "weight", "capacity"), 'found "slots"; allowed only with count = "threads"')
    if reader.good(*related) and weight.capacity == "quota" and not cgroups:
        reader.fault(
            _at(pool, "weight", "capacity"), 'found "quota"; it means the quota of workers.cgroups, which is empty'
        )
    for path in weight.others:
        if not path.strip("/"):
            reader.fault(_at(pool, "weight", "others"), f'found "{path}"; allowed: cgroups other than the root')


def _check_workers(reader: _Reader, pool: str, workers: Workers, checks: Checks) -> None:
    """Checks that involve several keys, or the machine."""
    for user in workers.users:
        if why := checks.user(user):
            reader.fault(_at(pool, "workers", "users"), why)
    related = [(table, key) for table in ("workers", "workers.custom") for key in KINDS[table] if key != "users"]
    if not reader.good(*(_at(name, *at) for name in {"", pool} for at in related)):
        return
    if workers.preset == "custom" and not workers.pattern:
        reader.fault(_at(pool, "workers.custom", "pattern"), 'missing; preset = "custom" needs one')
    elif workers.preset != "custom" and (workers.pattern or workers.busy_states):
        reader.fault(
            _at(pool, "workers", "preset"),
            f'found "{workers.preset}"; a pattern is allowed only with preset = "custom"',
        )
    elif wrong := checks.workers(workers):
        key, why = wrong
        table = "workers" if key in KINDS["workers"] else "workers.custom"
        reader.fault(_at(pool, table, key), why)


def to_toml(config: Config) -> str:
    """The whole configuration as TOML; :func:`parse` makes the same configuration of it."""
    lines = _lines(config, KINDS[""])
    for name, kinds in KINDS.items():
        if not name:
            continue
        if name == "workers.custom":
            if config.workers.preset == "custom":
                lines += ["", f"[{name}]", *_lines(config.workers, kinds)]
            continue
        lines += ["", f"[{name}]", *_lines(getattr(config, name), kinds)]
    for pool in config.pools:
        custom = KINDS["workers.custom"] if pool.workers.preset == "custom" else {}
        lines += ["", f"[pools.{json.dumps(pool.name)}]"]
        lines += _lines(pool.workers, KINDS["workers"] | custom) + _lines(pool.weight, KINDS["weight"])
    return "\n".join(lines) + "\n"


def _lines(table: object, kinds: Mapping[str, Kind[Any]]) -> list[str]:
    shown = ((key, kind.show(getattr(table, key))) for key, kind in kinds.items())
    # JSON's strings, numbers and lists are valid TOML, except for this one character.
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f") for key, value in shown]
