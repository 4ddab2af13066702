"""PURE. A process's table of mounts, as /proc/PID/mountinfo has it (proc(5))."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, eq=False, repr=False)
class Mount:
    """Where a file system is mounted, of which kind it is, and its own options, each with its value or ""."""

    point: str
    kind: str
    options: dict[str, str]


def mounts(mountinfo: str) -> Iterator[Mount]:
    """In their order; of two at one point the later one is seen. Lines that are cut are left out."""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        words, source = left.split(" "), right.split(" ")
        if len(words) >= 6 and len(source) >= 3:
            pairs = (option.partition("=") for option in source[2].split(","))
            point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), words[4])
            yield Mount(point, source[0], {key: value for key, _, value in pairs})
