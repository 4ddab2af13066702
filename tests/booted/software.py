"""What a booted machine gets to run: the tests' own interpreter, the agent as it has that, scripts.

Nothing is copied or downloaded: directories of the host are shown inside, where no unit's sandbox hides them.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path

# The interpreter is shown to the machine at a place that ProtectHome= and PrivateTmp= do not hide.
PYTHON_PREFIX = Path("/opt/busyweight-python")
LIBRARY = Path("/usr/lib/busyweight")
PYTHON = LIBRARY / "python"
COMMAND = Path("/usr/bin/busyweight")


def missing_for_agent() -> str | None:
    """What keeps the real agent from running inside, with the remedy; None when nothing does."""
    # Without the compiled half the daemon cannot even be imported.
    if importlib.util.find_spec("agent") is None or importlib.util.find_spec("agent._scan") is None:
        return "busyweight is not built in this interpreter: run `make build` and test with .venv/bin/python"
    return None


def interpreter() -> str:
    """The text of the command PYTHON: the tests' own interpreter, shown at a place of its own.

    Its shared library is named by a path that may be hidden inside; Debian's of the same name must not step in.
    """
    prefix = Path(sys.base_prefix)
    place = prefix if prefix == Path("/usr") else PYTHON_PREFIX
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return f'#!/bin/sh\nLD_LIBRARY_PATH={place}/lib exec {place}/bin/{version} -I "$@"\n'


def shown() -> list[str]:
    """The options of systemd-nspawn that show the interpreter, and the agent where there is one."""
    options = []
    if Path(sys.base_prefix) != Path("/usr"):
        options.append(f"--bind-ro={sys.base_prefix}:{PYTHON_PREFIX}")
    agent = importlib.util.find_spec("agent")
    if agent is not None and agent.origin is not None:
        options.append(f"--bind-ro={Path(agent.origin).parent}:{LIBRARY}/agent")
        options.append(f"--bind-ro={sysconfig.get_path('platlib')}:{LIBRARY}/site-packages")
    return options


def agent_launcher() -> str:
    """The text of the command the units start: the agent and its libraries as this interpreter has them."""
    return f"""\
#!{PYTHON}
import sys
sys.path[:0] = ["{LIBRARY}", "{LIBRARY}/site-packages"]
from agent.__main__ import main
sys.exit(main())
"""


def with_interpreter(script: Path) -> str:
    """The text of a script of the tests as a command."""
    return f"#!{PYTHON}\n{script.read_text()}"
