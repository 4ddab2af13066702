"""What valgrind checks from Python's side: a scanner and an answerer at work. The argument is a procfs tree."""

import socket
import sys

from agent._scan import Answerer, Scanner, Selector

SCANS = 20
POLLS = 200


def scan(procfs: str) -> None:
    """One reader hangs there, and is detached; the next scanner takes it over."""
    selectors = [Selector("sidekiq"), Selector("custom", comm=["*"], pattern=r"(?P<busy>\d+) of (?P<total>\d+)")]
    scanner = Scanner(procfs, "sweep", selectors, kept_max=2, detail=True)
    for _ in range(SCANS):
        busy = [pool.busy_threads for pool in scanner.scan().pools]
        workers = len(scanner.workers())
    heir = Scanner(procfs, "sweep", selectors, kept_max=100, former=scanner)
    print("busy", *busy, "workers", workers, "visible", heir.scan().visible, "hung", heir.hung_readers() > 0)


def answer() -> None:
    """Whoever polls: with a line or without, in time or not, from near or from a stranger's address."""
    answerer = Answerer(["127.0.0.0/30"])
    with socket.create_server(("127.0.0.1", 0), backlog=POLLS) as listener:
        listener.setblocking(False)
        for n in range(POLLS):
            answerer.set_replies(b"up 75%\n", [("mail", b"up 20%\n")] if n % 8 > 3 else [])
            with socket.create_connection(listener.getsockname(), source_address=(f"127.0.0.{1 + n % 4}", 0)) as poll:
                poll.sendall([b"", b"mail\n", b"x" * 5000][n % 3])
                for fd in answerer.serve_batch(listener.fileno(), 64)[1]:
                    if not answerer.readable(fd):
                        answerer.expire(fd)
    totals = answerer.totals()
    print("answered", totals.answered, "refused", totals.refused, "pollers", len(answerer.pollers()))


if __name__ == "__main__":
    scan(sys.argv[1])
    answer()
