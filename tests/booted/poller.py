"""Polls the agent as a balancer does, until its standard input says a line; prints what it heard.

The first line says that it begins. Each other one is a run of equal answers: a count, and what the agent said, or
in round brackets what went wrong instead.
"""

import itertools
import select
import socket
import sys
from collections.abc import Iterator

DEADLINE_S = 10  # a poll may wait in the backlog of a socket whose service is just starting


def poll(port: int) -> str:
    try:
        with socket.create_connection(("127.0.0.1", port), DEADLINE_S) as connection:
            return connection.makefile().readline().strip() or "(nothing)"
    except OSError as error:
        return f"({type(error).__name__})"


def answers(port: int) -> Iterator[str]:
    while not select.select([sys.stdin], [], [], 0.002)[0]:
        yield poll(port)
    yield poll(port)  # so that it has heard whatever held when it was told to end


print("polling", flush=True)
for answer, run in itertools.groupby(answers(int(sys.argv[1]))):
    print(sum(1 for _ in run), answer, flush=True)
