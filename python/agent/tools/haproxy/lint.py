"""Pure but for reading the files: what in haproxy.cfg makes the agent useless or dangerous.

It judges only what concerns the agent, and only server lines that ask an agent on one of the given ports. It
must not find fault with a sound file, nor repeat what `haproxy -c` says itself.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from . import of_agents, of_pools, of_servers
from .finding import LintFinding
from .parse import Configuration, parse, read_files
from .read import LintError, World, configuration_files
from .scope import Scope

# Four unknown conditions are tried in all ways; of more, those nearest to "all hold".
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

    `files` are files and directories as HAProxy's `-f` takes them, and are one configuration together. An
    agent check is ours if its port is in `ports`, or if `all_checks`. With `floor_above_zero` the agent never
    answers 0 %, so no backend can lose all its servers; with `bare_replies` it never says `up`. `pools` names its
    pools, where they are known. `version` is HAProxy's, where it is known. `environment` stands for HAProxy's own,
    by default this process's; what hangs on a variable missing from it is noted, not judged. Where `.if` asks what
    only the running HAProxy knows, both answers are tried.
    """
    paths = configuration_files(files)
    variables = dict(os.environ if environment is None else environment)
    readings = _readings(read_files(paths), variables)
    if not any(configuration.sections for configuration in readings):
        raise LintError(paths[0], "no section in it, not an HAProxy configuration")

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
    nobody = [note for scope in scopes if (note := of_agents.nobody(scope))]
    if len(nobody) == len(scopes):
        found[nobody[0]] = None
    order = {str(path): index for index, path in reversed(list(enumerate(paths)))}
    return sorted(found, key=lambda f: (order[f.file], f.line, f.severity, f.what))


def _readings(texts: Sequence[tuple[Path, str]], variables: dict[str, str]) -> list[Configuration]:
    """The configurations that the texts may be, by the conditions whose truth cannot be known here."""
    readings: list[Configuration] = []
    todo: list[dict[str, bool]] = [{}]
    while todo and len(readings) < _MOST_READINGS:
        assumed = todo.pop(0)
        world = World(dict(variables), dict(assumed))
        readings.append(parse(texts, world))
        # Each condition met for the first time was taken for true: try it false, those before it as they are.
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
