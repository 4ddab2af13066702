"""The psutil script that busyweight replaces, written out again as the tests' yardstick.

For every poll it walks all processes, counts the Sidekiqs that are not at ``[0 of `` and answers
what is left of the capacity in percent. Its mistakes belong to it and must never be mended here:

- psutil splits a command line that is one single string on blanks, so a worker whose title
  outgrew its argv is just ``sidekiq`` to the script, and busy even when idle;
- a child that a job forked shows its parent's title and is counted as one more worker;
- a worker that has not set its first title yet has no ``[0 of `` and is taken for busy.

As a program: ``python original.py PORT CAPACITY`` answers on 127.0.0.1:PORT.
"""

import socketserver
import sys

import psutil


def busy_pids() -> set[int]:
    """The processes that the script takes for busy Sidekiqs."""
    busy = set()
    for process in psutil.process_iter(["name", "cmdline"]):
        name, cmdline = process.info["name"] or "", process.info["cmdline"]
        if not cmdline:
            continue
        title = cmdline[0]
        if ("sidekiq" in name or "sidekiq" in title) and "[0 of " not in title:
            busy.add(process.pid)
    return busy


def weight_percent(busy: int, capacity: int) -> int:
    """The formula: what is free in percent, 0 for a host that is full or more than full."""
    return 0 if busy >= capacity else round(100 * (1 - busy / capacity))


def answer(busy: int, capacity: int) -> bytes:
    """The bytes that the script sends to HAProxy."""
    return f"{weight_percent(busy, capacity)}%\r\n".encode()


def main() -> None:
    port, capacity = int(sys.argv[1]), int(sys.argv[2])

    class Reply(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(answer(len(busy_pids()), capacity))

    socketserver.TCPServer.allow_reuse_address = True
    with socketserver.TCPServer(("127.0.0.1", port), Reply) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
