"""The scan that busyweight replaces: psutil, every process, name and command line.

It must stay as naive as it is: all ratios are relative to it.
"""

import psutil


def original_scan() -> int:
    """The number of Sidekiq processes not at `[0 of `: the busy ones, if every title fits its argv.

    psutil splits a title that outgrew its argv on blanks, so such a worker counts as busy whatever it says.
    """
    busy = 0
    for process in psutil.process_iter(["name", "cmdline"]):
        cmdline = process.info["cmdline"]
        if cmdline and cmdline[0].startswith("sidekiq") and "[0 of " not in cmdline[0]:
            busy += 1
    return busy
