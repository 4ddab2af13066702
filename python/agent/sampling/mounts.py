"""PURE. A process's mount table, parsed from /proc/PID/mountinfo (proc(5))."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, eq=False, repr=False)
class Mount:
    """A mount point, its file system's type and that file system's options, each with its value or ""."""

    point: str
    kind: str
    options: dict[str, str]


def mounts(mountinfo: str) -> Iterator[Mount]:
    """The mounts in order; of two at the same point the later one is visible. Truncated lines are skipped."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        words, source = left.split(" "), right.split(" ")
        if len(words) >= 6 and len(source) >= 3:
            pairs = (option.partition("=") for option in source[2].split(","))
            point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), words[4])
            yield Mount(point, source[0], {key: value for key, _, value in pairs})
