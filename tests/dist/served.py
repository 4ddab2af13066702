"""Serves with the agent of this interpreter's environment, prints what a poller hears, and ends it.

Run inside the Debian that the wheel is installed in.
"""

import socket
import subprocess
import sys
import time
from pathlib import Path

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = free.getsockname()

command = Path(sys.executable).with_name("busyweight")
agent = subprocess.Popen([command, "serve", "--listen", f"127.0.0.1:{address[1]}"])
end = time.monotonic() + 60
try:
    while agent.poll() is None and time.monotonic() < end:
        try:
            with socket.create_connection(address, 10) as poll:
                print(poll.makefile().read(), end="")
            break
        except ConnectionRefusedError:
            time.sleep(0.02)  # it opens the port after its first scan
finally:
    agent.kill()
    agent.wait()
