"""`make run`: the agent of this checkout, and what to type next.

    python -m tools.run ADDR:PORT

Its state and its control socket are in a directory of the virtual environment, where the other commands of this
environment look for them (agent/config/paths.py). It must never write anything outside the checkout.
"""

import errno
import os
import socket
import sys
from pathlib import Path

from agent.config import paths, values
from agent.tools import client

COMMAND = Path(sys.prefix, "bin/busyweight")


def hints(address: str, command: Path) -> str:
    """What a newcomer may want to type next."""
    host, port = values.address(address)
    return f"""\
The agent of this checkout, on {address}; stop it with Ctrl-C. In another terminal, in this directory:
    bash -c 'cat </dev/tcp/{host}/{port}'   polls it, as HAProxy does
    {command} status   shows its reply, and why; `top` shows it live, `doctor` what to fix
    make demo   simulates workers if there are none, with HAProxy if it is installed
"""


def obstacle(address: str) -> str | None:
    """What prevents an agent from starting here, with the remedy; None if nothing does."""
    try:
        running = client.ask(paths.control_socket(None), "status")["status"]["agent"]["pid"]
    except client.ClientError:
        pass  # none, or another user's, whose port will tell
    else:
        return f"the agent of this checkout is already running as pid {running}: stop it first (Ctrl-C where it runs)"
    host, port = values.address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            other = f"{host if family == socket.AF_INET else f'[{host}]'}:{port + 1 if port < 65535 else port - 1}"
            what = "is in use by another program" if error.errno == errno.EADDRINUSE else str(error.strerror).lower()
            return f"{address}: {what}; another address: make run LISTEN={other}"
    return None


def main(address: str) -> int:
    """Becomes the agent. Returns only if it cannot."""
    try:
        Path(sys.prefix, paths.TRYOUT).mkdir(exist_ok=True)
        why = obstacle(address)
    except values.Wrong as wrong:
        why = f"LISTEN={address}: allowed: {wrong}"
    except OSError as error:
        why = f"{error.filename}: {str(error.strerror).lower()}"
    if why is None:
        print(hints(address, Path(os.path.relpath(COMMAND))), flush=True)
        os.execv(COMMAND, [COMMAND, "serve", "--listen", address])  # noqa: S606 - no shell is wanted
    print(f"run: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
