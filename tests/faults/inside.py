"""Runs inside its own namespaces: `python -m tests.faults.inside WAY …`; prints its decision.

It must never run outside: it sets which pid comes next.
"""

import os
import socket
import sys
import time
from pathlib import Path

from agent._scan import Scanner, Selector
from tests.farm import Farm, sidekiq_title


def reuse_pids(comm: str, rounds: int) -> None:
    """A worker dies and another process gets its pid: one is never mistaken for the other."""
    assert os.getpid() == 1, "not in a pid namespace of its own"
    scanner = Scanner("/proc", "sweep", [Selector("sidekiq", comm=[comm])], kept_max=10)
    reused = 0
    with Farm() as farm:
        [pid] = farm.spawn(comm=comm, title=sidekiq_title(1))
        for n in range(rounds):
            scanner.scan()
            farm.kill([pid])
            if n % 3 == 0 or n % 4 == 1:
                # Who was looked at and was no worker is looked at again by time, not by scan; let it be seen to go.
                _bystander(farm, n + rounds)
                scanner.scan()
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
            kind = n % 4
            title = [b"irb", sidekiq_title(0), sidekiq_title(7), sidekiq_title(1)][kind]
            [again] = farm.spawn(comm="sh" if kind == 0 and n % 8 else comm, title=title)
            reused += again == pid
            pid = again
            _bystander(farm, n)
            [pool] = scanner.scan().pools
            while pool.quarantined:  # a read took too long on a busy machine: its last reading stands for it
                [pool] = scanner.scan().pools
            found = (pool.workers, pool.busy_threads)
            expected = [(0, 0), (1, 0), (1, 7), (1, 1)][kind]
            assert found == expected, f"round {n}, pid {pid}: found {found}, there is {expected}"
    print("reused", reused, "of", rounds)


def reuse_a_working_pid(comm: str) -> None:
    """A worker that gets a dead one's pid between two looks: its CPU time does not count for the dead one."""
    assert os.getpid() == 1, "not in a pid namespace of its own"
    scanner = Scanner("/proc", "sweep", [Selector("sidekiq", comm=[comm], now=True)], kept_max=10)
    with Farm() as farm:
        [pid] = farm.spawn(comm=comm, title=sidekiq_title(0))
        scanner.scan()
        _works_half_the_time(farm, pid)
        itself = scanner.scan().pools[0].untitled
        farm.kill([pid])
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        [again] = farm.spawn(comm=comm, title=sidekiq_title(0))
        assert again == pid
        # More than the dead one ever took: no time goes back.
        _works_half_the_time(farm, pid, least_s=2.0)
        another = scanner.scan().pools[0].untitled
    print(f"untitled {itself} of itself, {another} of another")


def _works_half_the_time(farm: Farm, pid: int, least_s: float = 0.2) -> None:
    """Until half of the time since now, and so many seconds at least, were taken."""
    clock = ~pid << 3 | 2
    began_s, before_s = time.monotonic(), time.clock_gettime(clock)
    os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(1))
    farm.burn([pid])
    while (taken_s := time.clock_gettime(clock) - before_s) < least_s or 2 * taken_s < time.monotonic() - began_s:
        time.sleep(0.01)
    farm.rest([pid])


def _bystander(farm: Farm, n: int) -> None:
    """Somebody else comes and goes, and the last pid given out is another one than it was."""
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(1000 + n % 20_000))
    farm.kill(farm.spawn())


def poll_from_few_ports(port: int, polls: int) -> None:
    """Polls one after the other where there are only thirty ports to poll from."""
    for _ in range(polls):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as poll:
            assert poll.recv(100), "an empty answer"
    print("answered", polls)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["reuse_pids", comm, rounds]:
            reuse_pids(comm, int(rounds))
        case ["reuse_a_working_pid", comm]:
            reuse_a_working_pid(comm)
        case ["poll_from_few_ports", port, polls]:
            poll_from_few_ports(int(port), int(polls))
        case _:
            os._exit(2)
