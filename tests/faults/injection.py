"""PURE. Which calls of an agent's life fail or hang, and what must hold in such a life whatever happens in it.

The host of such a life is full. Each rule that allows something says why nobody can do better.
"""

import errno
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Self

from agent.serve.systemd import STOP_SLACK_S

HANG_S = 5.0
RELEASE_S = 0.2
# Far above wait_at_most and 50 ms, since each call of the agent stops twice on a machine that does other things as
# well, and far below what any of the agent's patiences and a hang take.
SILENT_S = 0.5
# The same call, once more: state that the first one left may matter.
TIMES = 2

# The steps of a life.
START, SERVE, DRAIN, READY, RELOAD, STOP = "012345"

# The errors that the kernel has for each call, of all that it is about or of some; every other call fails by the last
# line's. What it never says is left out, as Linux 6.18 has it, where libuv 1.52 would abort:
# - an eventfd that does not block says EAGAIN when there is nothing to read, and no other error (fs/eventfd.c); a
#   write, EAGAIN only where it is readable already, so that failing one would lose a wakeup as nothing else does;
# - nor has a pipe or a socketpair another error for a reader (fs/pipe.c, net/unix/af_unix.c);
# - a watch that is there can always be changed and taken away (fs/eventpoll.c: ep_modify, ep_remove); of one that is
#   not, libuv ignores the error;
# - for a new watch there may be no room. libuv asks for it on trial (`try:`, uv__io_check_fd), and where that fails
#   the agent hears of it. That the watch itself (`add:`, uv__io_poll) fails right after it did not on trial ends the
#   process, and nobody is asked before.
ERRORS = (
    (r"(read|recvfrom) \S+ (anon_inode:\[eventfd\]|pipe:|socket:)", ("EINTR", "EAGAIN")),
    (r"write \S+ (anon_inode:\[eventfd\]|pipe:|socket:)", ("EINTR",)),
    (r"epoll_ctl \S+ (add|mod|del):", ()),
    (r"epoll_ctl \S+ try:", ("ENOMEM", "ENOSPC")),
    (r"(pipe2|eventfd2|epoll_create1|socketpair|socket|inotify_init1) ", ("EMFILE", "ENFILE", "ENOMEM")),
    (r"openat ", ("EMFILE", "EACCES", "ENOMEM")),
    (r"(read|pread64) ", ("EINTR", "EIO", "ENOMEM")),
    (r"write ", ("EINTR", "EIO", "EAGAIN")),
    (r"accept4 ", ("EMFILE", "ENOMEM", "ECONNABORTED")),
    (r"epoll_p?wait ", ("EINTR",)),
    (r"poll ", ("EINTR", "ENOMEM")),
    (r"close ", ("EINTR", "EIO")),
    (r"clone3? ", ("EAGAIN", "ENOMEM")),
    (r"", ("ENOMEM", "EACCES", "EIO")),
)

# The first pipes, by which libuv locks its signals, it cannot do without (src/unix/signal.c, uv__signal_global_reinit).
# Nobody was answered before, and the service manager starts another agent.
ABORTS = re.compile(r"0 pipe2 main -")

# Calls that never wait, by what they are about: the kernel has all at hand that they ask for. On the event loop's
# thread these alone may hold polls up, and that is what a hang there does to any program; on another thread, only the
# write that wakes the loop.
NEVER_WAITS = re.compile(r"(?:anon_inode:|pipe:|socket:|closed$|(?:try|add|mod|del):|poll$|command$|(?:unix|inet)-|-$)")

BROKEN = re.compile(r"Traceback|panicked|Fatal Python error|Exception ignored|Assertion|internal error")


class Case(NamedTuple):
    """The call that does not do as usual: `name` is the error's, or `hang`."""

    site: str
    nth: int
    name: str

    def __str__(self) -> str:
        return f"{self.site} no. {self.nth}, {self.name}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The case that is written so, if it is one."""
        found = re.fullmatch(r"(\d \S+ \S+ \S+) no\. (\d+), (\w+)", text)
        return cls(found[1], int(found[2]), found[3]) if found else None

    @property
    def how(self) -> str:
        """As the shim wants to be told."""
        return f"hang:{HANG_S * 1000:.0f}" if self.name == "hang" else str(getattr(errno, self.name))


NOTHING = Case("- - - -", 0, "none")


class Cases(NamedTuple):
    """All, in their order, and those of them whose call is there in every life."""

    all: list[Case]
    sure: set[Case]


def cases_of(lives: Iterable[Counter[str]]) -> Cases:
    """Those of the calls of some lives in which nothing fails."""
    lives = list(lives)
    most = Counter[str]()
    for life in lives:
        most |= life
    of_all = list(_of_life(most))
    return Cases(of_all, {case for case in of_all if all(life[case.site] >= case.nth for life in lives)})


def _of_life(times: Counter[str]) -> Iterator[Case]:
    for site, many in times.items():
        errors = next(errors for pattern, errors in ERRORS if re.match(pattern, site[2:]))
        for nth in range(1, min(many, TIMES) + 1):
            for name in (*errors, "hang"):
                yield Case(site, nth, name)


class Poll(NamedTuple):
    """One poll that was made since the first answer: the steps in which it began and ended, and what was heard, None
    where nothing was."""

    began: str
    ended: str
    line: str | None


@dataclass
class Life:
    """What came of one. `served`: somebody was answered. `refused`: orders that were refused twice."""

    polls: list[Poll] = field(default_factory=list)
    served: bool = False
    silent_s: float = 0.0
    stop_s: float = 0.0
    exit_code: int = 0
    log: str = ""
    refused: list[str] = field(default_factory=list)
    struck: bool = False


class Fault(NamedTuple):
    """What was wrong. `timed`: a machine that is too busy may be why."""

    what: str
    timed: bool = False


def faults(case: Case, life: Life) -> list[Fault]:
    """All that was wrong in a life."""
    found = list(_words(case, life) if life.served else _start(case, life))
    if broken := BROKEN.search(life.log):
        may_abort = broken[0] == "Assertion" and _may_abort(case, life)
        found += [] if may_abort else [Fault(f"the log says {broken[0]!r}")]
    return found


def _start(case: Case, life: Life) -> Iterator[Fault]:
    """Of an agent that nobody was answered by: the service manager starts another. A call that hangs only makes it
    late."""
    if case.name == "hang":
        yield Fault("never served", timed=True)
    elif life.exit_code not in (1, 2) and not _may_abort(case, life):
        yield Fault(f"did not serve, and ended with {life.exit_code}")
    elif life.exit_code in (1, 2) and not life.log.strip():
        yield Fault("did not serve, and did not say why")


def _may_abort(case: Case, life: Life) -> bool:
    return not life.served and ABORTS.fullmatch(case.site) is not None and life.exit_code == -signal.SIGABRT


def _words(case: Case, life: Life) -> Iterator[Fault]:
    for line in dict.fromkeys(poll.line for poll in life.polls if poll.line and poll.ended != STOP):
        if weight(line) > 0 or leaves(line):
            yield Fault(f"said {line!r}")
    for line in dict.fromkeys(poll.line for poll in life.polls if poll.line and poll.ended == STOP):
        if weight(line) > 0 and not leaves(line):
            yield Fault(f"said {line!r} when it stopped")
    last = next((poll.line for poll in reversed(life.polls) if poll.line), "")
    if not leaves(last) or weight(last) != 100 or drained(life.polls):
        yield Fault(f"the last word was {last!r}{' in a drain' if drained(life.polls) else ''}")
    yield from (Fault(f"refused twice: {what}") for what in life.refused)
    lost = sum(poll.line is None for poll in life.polls if STOP not in (poll.began, poll.ended))
    if lost > may_lose(case):
        yield Fault(f"{lost} polls were lost")
    if life.silent_s > SILENT_S and not may_silence(case):
        yield Fault(f"nothing was heard for {life.silent_s:.1f} s", timed=True)
    if life.exit_code != 0:
        yield Fault(f"ended with {life.exit_code}")
    if life.stop_s > RELEASE_S + STOP_SLACK_S:
        yield Fault(f"took {life.stop_s:.1f} s to stop", timed=True)


def may_silence(case: Case) -> bool:
    """Whether polls may wait for the call that hangs: the event loop's own, or a Python thread's that wakes the
    loop (uvloop's Async.send, where no other thread can run meanwhile), and of a kind that never does."""
    _, call, thread, about = case.site.split(" ", 3)
    wakes = (call, thread, about) == ("write", "busyweight", "anon_inode:[eventfd]")
    return (
        case.name == "hang"
        and (thread == "main" or wakes)
        and NEVER_WAITS.match(about) is not None
        and "!waits" not in about
    )


def may_lose(case: Case) -> int:
    """How many polls may end without an answer: the one whose own connection fails."""
    return int(case.name != "hang" and case.site.split(" ", 3)[3].startswith("poll"))


def weight(line: str) -> int:
    """The weight that it gives, 0 if none."""
    found = re.search(r"\b(\d+)%", line.partition("#")[0])
    return int(found[1]) if found else 0


def leaves(line: str) -> bool:
    """Whether it is a last word."""
    return "#stopping" in line


def drained(polls: Iterable[Poll]) -> bool:
    """Whether a balancer that heard these keeps the host drained: only `ready` ends it."""
    state = ""
    for poll in polls:
        words = (poll.line or "").partition("#")[0].split()
        state = next((word for word in words if word in ("drain", "maint", "ready")), state)
    return state in ("drain", "maint")
