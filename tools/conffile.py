"""Prints the configuration file that the packages install: every key with its default, commented out.

Keys, defaults and the words for what is allowed are the agent's own; only what a key is for
is said here. It must never set anything: the file as it comes means the same as no file.
"""

import json
from collections.abc import Iterator

from agent.config.schema import KINDS, Config

HEAD = """\
# Configuration of busyweight. Each key stands here with what it is for, what is allowed, and its default.
# `busyweight config` shows what is in force, and every fault; `systemctl reload busyweight` takes a new file,
# whole or not at all."""

FOR = {
    "listen": "Where HAProxy asks; an enabled busyweight.socket replaces it.",
    "allow": "Who may ask; empty: whoever reaches the port.",
    "workers.preset": "The program whose titles count.",
    "workers.comm": "Names of processes to look at, with * and ?; empty: the preset's own; * alone: all.",
    "workers.users": "Only these users' processes count; empty: everyone's. Anybody can write any title.",
    "workers.cgroups": "Only processes below these cgroups count, such as system.slice/sidekiq.service.",
    "workers.now": "What shows that a worker has a job: its CPU time as well as its title, or its title alone.",
    "workers.custom.pattern": 'For preset = "custom": finds (?P<busy>...) and (?P<total>...), or (?P<state>...).',
    "workers.custom.busy_states": "The states that are busy.",
    "scan.procfs": "Where processes are seen.",
    "scan.pid_namespace": "Whether the whole host must be seen, or any pid namespace will do (a pod's sidecar).",
    "scan.discovery": "How processes are found; auto takes the cheapest that is to be had.",
    "scan.fresh_for": "Polls share one scan for this long.",
    "scan.min_gap": "Scans are never closer than this.",
    "scan.max_duty": "Nor do they take more than this.",
    "scan.wait_at_most": "How long a poll waits for a scan when there is nothing fresh to say.",
    "scan.give_up_after": "What is older than this is unknown.",
    "weight.count": "What is busy: processes with a job, threads with one, or the cores that workers take.",
    "weight.capacity": "How many busy ones make the host full; cores are physical, slots are all threads.",
    "weight.others": "Cgroups whose cores are busy, too, such as system.slice/mysql.service or backup.service.",
    "weight.floor": "Never say less.",
    "weight.rise": "Falls at once, rises no faster than this.",
    "weight.unknown": "What to say when nothing can be seen; hold leaves HAProxy's weight as it is.",
    "reply.health": "Whether to say `up` and why, for HAProxy's page, or the bare weight.",
    "reply.on_stop": "Whether to say 100 % before ending: HAProxy keeps the last word for ever.",
    "reply.release_for": "How long to say it.",
    "limits.max_connections": "Connections that may keep the agent waiting for their line.",
    "limits.deadline": "How long each of them may.",
    "limits.backlog": "Polls that may wait in the kernel.",
    "control.group": "The group that may command, besides root and the agent's own user; empty: none.",
    "log.level": "What is logged.",
    "log.format": "And how.",
    "metrics.listen": "Where Prometheus may read; empty: nowhere.",
}


def lines() -> Iterator[str]:
    """The file, line by line. KeyError for a key of which it is not said here what it is for."""
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
