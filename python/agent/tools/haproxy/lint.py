"""Pure but for reading the files: what in haproxy.cfg makes the agent useless or dangerous.

It checks only what concerns the agent, and only server lines that poll an agent on one of the given ports. It must
not complain about a correct file, nor repeat what `haproxy -c` reports.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from . import of_agents, of_pools, of_servers
from .finding import LintFinding
from .model import Configuration
from .parse import parse, read_files
from .read import LintError, World, configuration_files
from .scope import Scope

# Up to four unknown conditions are tried in all combinations; with more, those nearest to "all hold".
_MOST_READINGS = 16


def lint(  # noqa: PLR0913 - what is known beside the files is named at the call
    files: Sequence[Path],
    ports: Collection[int],
    *,
    all_checks: bool = False,
    floor_above_zero: bool = False,
    bare_replies: bool = False,
    version: tuple[int, ...] = (),
    pools: Collection[str] = (),
    environment: Mapping[str, str] | None = None,
) -> list[LintFinding]:
    """Findings and notes, in the order of the files and their lines. Raises LintError.

    `files` are files and directories as HAProxy's `-f` takes them, and are one configuration together. An agent check
    is ours if its port is in `ports`, or with `all_checks`. With `floor_above_zero` the agent never replies 0 %, so
    no backend can lose all its servers; with `bare_replies` it never says `up`. `pools` names its pools, if known.
    `version` is HAProxy's, if known. `environment` stands for HAProxy's own, by default this process's; what depends
    on a variable missing from it is noted, not checked. If an `.if` depends on what only the running HAProxy knows,
    both branches are tried.
    """
    paths = configuration_files(files)
    variables = dict(os.environ if environment is None else environment)
    readings = _readings(read_files(paths), variables)
    if not any(configuration.sections for configuration in readings):
        raise LintError(paths[0], "has no section, so it is not an HAProxy configuration")

    scopes = [
        Scope(
            configuration,
            frozenset(ports),
            all_checks,
            floor_above_zero,
            bare_replies,
            version,
            frozenset(pools),
        )
        for configuration in readings
    ]
    found: dict[LintFinding, None] = {}
    for scope in scopes:
        found.update(dict.fromkeys(_findings(scope)))
    nobody = [note for scope in scopes if (note := of_agents.nobody_polls(scope))]
    if len(nobody) == len(scopes):
        found[nobody[0]] = None
    order = {str(path): index for index, path in reversed(list(enumerate(paths)))}
    return sorted(found, key=lambda f: (order[f.file], f.line, f.severity, f.what))


def _readings(texts: Sequence[tuple[Path, str]], variables: dict[str, str]) -> list[Configuration]:
    """The possible configurations, one for each outcome of the conditions that cannot be evaluated here."""
    readings: list[Configuration] = []
    todo: list[dict[str, bool]] = [{}]
    while todo and len(readings) < _MOST_READINGS:
        assumed = todo.pop(0)
        world = World(dict(variables), dict(assumed))
        readings.append(parse(texts, world))
        # Each condition met for the first time was assumed to be true: try false, with those before it unchanged.
        met = list(world.assumed.items())
        todo += [{**dict(met[:i]), met[i][0]: False} for i in range(len(assumed), len(met))]
    return readings


def _findings(scope: Scope) -> Iterator[LintFinding]:
    watched = [(p, ours) for p in scope.configuration.backends() if (ours := scope.ours(p))]
    for backend, ours in watched:
        for judge in (*of_servers.JUDGES, *of_agents.JUDGES, *of_pools.JUDGES):
            yield from judge(scope, backend, ours)
    yield from of_agents.mixed_agent_send(scope, watched)
    yield from of_servers.tracked_init_state(scope)
    yield from of_agents.unknown_ports(scope)
    yield from of_agents.without_agent_check(scope)
    yield from of_pools.reload(scope, watched)
