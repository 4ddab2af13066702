"""Stands in for the agent where a test is about systemd: readiness, passed sockets, watchdog, signals.

It answers every connection with one line, says in its status which signal it got, and ends on SIGTERM and
SIGUSR1. It must stay too simple to be wrong.
"""

import os
import socket
import sys
from contextlib import suppress
from signal import SIGHUP, SIGTERM, SIGUSR1, set_wakeup_fd, signal


def notify(text: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_systemd:
        to_systemd.connect(os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1))
        to_systemd.send(text.encode())


woken, wake = socket.socketpair()
woken.settimeout(0.05)
wake.setblocking(False)
set_wakeup_fd(wake.fileno())
for number in (SIGHUP, SIGTERM, SIGUSR1):
    signal(number, lambda *_: None)
listener = socket.socket(fileno=3) if "LISTEN_FDS" in os.environ else socket.create_server(("127.0.0.1", 5001))
listener.setblocking(False)
notify("READY=1\nSTATUS=no signal yet")
while True:
    notify("WATCHDOG=1")
    try:
        while True:
            with listener.accept()[0] as connection, suppress(ConnectionError):
                connection.sendall(b"up 40% #dummy\n")
    except BlockingIOError:
        pass
    try:
        got = woken.recv(1)[0]
    except TimeoutError:
        continue
    print("got", got, file=sys.stderr, flush=True)
    if got in (SIGTERM, SIGUSR1):
        sys.exit(0)
    notify("READY=1\nSTATUS=reloaded")
