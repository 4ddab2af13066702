"""Prints the configuration file that the packages install: every key with its default, commented out.

Keys, defaults and allowed values come from the agent; only the purpose of each key is written here. It must never set
anything: the file as shipped means the same as no file.
"""

import json
from collections.abc import Iterator

from agent.config.schema import KINDS, Config

HEAD = """\
# Configuration of busyweight. Every key is listed with its purpose, the allowed values and its default.
# `busyweight config` shows the effective configuration, or every error in it. `systemctl reload busyweight` loads
# a changed file, as a whole or not at all."""

FOR = {
    "listen": "Where the agent listens for HAProxy; an enabled busyweight.socket overrides it.",
    "allow": "Networks that may poll; empty: anyone who can reach the port.",
    "workers.preset": "The program whose titles count.",
    "workers.comm": "Process names to consider, with * and ?; empty: the preset's own list; * alone: all processes.",
    "workers.users": "Only these users' processes count; empty: everyone's. Any user can write any title.",
    "workers.cgroups": "Only processes below these cgroups count, such as system.slice/sidekiq.service.",
    "workers.now": "What shows that a worker has a job: its CPU time as well as its title, or only its title.",
    "workers.custom.pattern": 'For preset = "custom": finds (?P<busy>...) and (?P<total>...), or (?P<state>...).',
    "workers.custom.busy_states": "The values of (?P<state>...) that mean busy.",
    "scan.procfs": "The procfs to read.",
    "scan.pid_namespace": "Whether the whole host must be visible, or any pid namespace will do (a pod's sidecar).",
    "scan.discovery": "How processes are found; auto uses the cheapest way available.",
    "scan.fresh_for": "Polls share one scan for this long.",
    "scan.min_gap": "Minimum time between two scans.",
    "scan.max_duty": "Scans never use more CPU than this.",
    "scan.wait_at_most": "How long a poll may wait for a scan when there is no fresh sample.",
    "scan.give_up_after": "A sample older than this counts as unknown.",
    "weight.count": "What to count: processes with a job, threads with a job, or the cores that workers use.",
    "weight.capacity": "The count at which the host is full; cores: its physical cores, slots: the workers' threads.",
    "weight.others": "Cgroups whose CPU use counts as busy too, such as system.slice/mysql.service or backup.service.",
    "weight.floor": "The lowest weight to send.",
    "weight.rise": "The weight falls at once and rises no faster than this.",
    "weight.unknown": "What to send when the state is unknown; hold leaves HAProxy's weight as it is.",
    "reply.health": "Whether to send `up` with a description, for HAProxy's statistics page, or only the weight.",
    "reply.on_stop": "Whether to send 100 % before stopping: HAProxy keeps the last weight for ever.",
    "reply.release_for": "How long to send it.",
    "limits.max_connections": "How many connections may wait with their agent-send line still missing.",
    "limits.deadline": "How long the agent waits for an agent-send line.",
    "limits.backlog": "How many polls may wait in the kernel.",
    "control.group": "A group that may control the agent, besides root and the agent's own user; empty: none.",
    "log.level": "The least severe messages to log.",
    "log.format": "The format of log lines.",
    "metrics.listen": "Where to serve Prometheus metrics; empty: nowhere.",
}


def lines() -> Iterator[str]:
    """The file, line by line. KeyError for a key without a purpose."""
    yield HEAD
    defaults = Config()
    for name, kinds in KINDS.items():
        yield f"\n[{name}]" if name else ""
        table = getattr(defaults, name.partition(".")[0], defaults)
        for key, kind in kinds.items():
            yield f"# {FOR[f'{name}.{key}' if name else key]}"
            yield f"# Allowed: {kind.allowed}."
            yield f"#{key} = {json.dumps(kind.show(getattr(table, key)))}"
            yield ""


if __name__ == "__main__":
    print("\n".join(lines()))
