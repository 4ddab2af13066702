"""The reference of the boundary: everything that the Rust side offers to Python.

Times named ``_ns`` are nanoseconds and ``_ms`` milliseconds. Points in time (``began_ns``, ``last_ns``) are of
``CLOCK_BOOTTIME``, the clock that the kernel uses for process start times; it continues while the machine is
suspended.
"""

from typing import Literal, TypeAlias, final

__version__: str

PRESETS: tuple[str, ...]
"""What ``workers.preset`` may be: the known programs (rust/presets.rs), and custom."""

HUNG_READERS_MAX: int
"""As many readers are detached at most; then a scan waits until one comes back."""

def now_ns() -> int:
    """Nanoseconds of ``CLOCK_BOOTTIME``, corrected for any step back (checkpoint/restore), so that it never goes
    back. All points in time here are of this clock."""

def hidden_by_name(procfs: str, selectors: list[Selector]) -> list[tuple[int, str, int]]:
    """Processes with a title that a selector would count, but a name that it does not match: pid, name, and the
    selectors as bits; at most 100, without forked copies. Reads all of /proc, and may hang in one process: call it
    rarely, on a separate thread. GIL released. Raises OSError if there is no such root."""

Reading: TypeAlias = tuple[int, int, bool] | Literal["unparsable"] | None

@final
class Selector:
    """One set of workers to count: a pool. Immutable."""

    def __new__(
        cls,
        preset: str,
        *,
        comm: list[str] = ...,
        users: list[int] = ...,
        cgroups: list[str] = ...,
        pattern: str = ...,
        busy_states: list[str] = ...,
        now: bool = ...,
        cores: bool = ...,
        others: list[str] = ...,
    ) -> Selector:
        """``preset``: one of PRESETS. ``comm``: globs over process names, empty for the preset's own.
        ``users``: user ids, which must include a process's real and effective one; empty for everyone.
        ``cgroups``: paths, empty for anywhere. ``pattern`` and ``busy_states``: for custom only, in the syntax
        of Rust's regex crate. ``now``: a worker that uses CPU time has a job, whatever its title said at its
        last heartbeat; only for programs with a heartbeat. ``cores``: measure the cores that workers use.
        ``others``: cgroups whose cores to measure, as paths or unit names.

        Raises ValueError, with a text for the operator, if an argument is invalid."""

    @property
    def comm(self) -> list[str]:
        """The effective globs: those given, or the preset's own."""

    @property
    def has_a_heartbeat(self) -> bool:
        """Whether the program writes its title now and then, and not at each job."""

    def read(self, cmdline: bytes) -> Reading:
        """How this selector reads the bytes of a ``cmdline``: (busy, total, stopping), "unparsable" if the title
        names the program but has no valid count, None if it is not a worker of this program."""

@final
class Counts:
    """The counts of one selector's processes. Immutable."""

    workers: int  # with a reading; those of quarantined workers are their last
    readable: int  # of them, those that can be read now
    busy_processes: int  # workers with at least one job: by their titles, or because they work now
    busy_threads: int  # the sum of N in [N of M busy], and the threads on which the untitled ones work
    total_threads: int  # the sum of M
    untitled: int  # workers that count as busy because they work now, though their title says idle
    cores_milli: int  # cores that all workers use, in thousandths, smoothed over a second
    others_milli: int  # cores that the other cgroups use, likewise
    stopping: int  # workers that take no more jobs
    copies: int  # forked copies of a worker, which are not counted as workers
    unparsable: int  # titles of the program without a valid count
    quarantined: int  # processes that blocked a reader and wait for a retry
    unread: int  # possible workers never read: the agent may not, or a reader hung there
    oldest_ms: int  # age of the oldest reading counted, at the end of the scan

@final
class Snapshot:
    """The result of one scan. Immutable."""

    visible: bool  # pid 1's name could be read, and no file descriptor was wanting; else what
    #                was not seen may still be there
    whole: bool  # the whole host is visible, or a worker was seen: if there is no worker, the host has none
    pools: list[Counts]  # one per selector, in their order
    discovery: str  # sweep, cgroup or ebpf
    processes: int  # processes the discovery knows of
    rechecked: int  # read in this scan because they were new or due for a re-check
    vanished: int  # exited while they were being read
    unreadable: int  # may not be read
    cpu_untold: int  # workers whose CPU time is needed but cannot be read; only their titles count
    began_ns: int
    took_ns: int
    cost_ns: int  # of one core; at most took_ns

@final
class Worker:
    """One process with a worker's title, for people to look at. Immutable."""

    pid: int
    uid: int | None  # effective user id, if it was read
    title: bytes  # the first 512 bytes
    readings: list[Reading]  # one per selector
    copy: bool
    quarantined: bool
    age_ms: int
    works_for_ms: int  # how long it has been working, by its CPU time; 0 if it is not
    cores_milli: int | None  # cores that it uses, in thousandths; None if unknown

@final
class Scanner:
    """Finds workers and reads their titles. All methods release the GIL and, but for
    ``scan``, return at once; threads exist from the first scan on. Making one keeps the GIL,
    and takes a moment where programs are loaded into the kernel."""

    def __new__(
        cls,
        procfs: str,
        discovery: str,
        selectors: list[Selector],
        *,
        kept_max: int,
        detail: bool = False,
        former: Scanner | None = None,
        drop_privileges: bool = False,
    ) -> Scanner:
        """``discovery``: auto, sweep, cgroup or ebpf; one that is not available is replaced, see ``refused``. At most
        ``kept_max`` files stay open. ``detail`` keeps users and titles for ``workers()``. ``former`` is the scanner
        that this one replaces: it passes on its BPF programs, because the privileges to load them again may be gone,
        and its hung readers still count. ``drop_privileges`` drops CAP_BPF and CAP_PERFMON for good; capabilities
        belong to threads, so call it before there are any.

        Raises OSError if there is no such procfs root."""

    @property
    def discovery(self) -> str:
        """The discovery in use: sweep, cgroup or ebpf."""

    @property
    def refused(self) -> list[str]:
        """Better discoveries that are not available, as "NAME: reason"."""

    @property
    def event_fd(self) -> int:
        """A file descriptor that is readable when ``take`` has a result. The scanner owns it."""

    def start(self) -> None:
        """Starts a scan unless one is running."""

    def check_deadline(self) -> bool:
        """While a scan runs: detaches a reader that hangs, so that the scan continues. Returns whether to call it
        again soon."""

    def take(self) -> Snapshot | None:
        """The finished scan's snapshot, once. Raises RuntimeError if the scan failed."""

    def scan(self, give_up_s: float = 10.0) -> Snapshot:
        """Scans and waits for the result. Raises RuntimeError if the scan failed or all readers hang."""

    def workers(self) -> list[Worker]:
        """Every process with a worker's title, as of the last scan; by pid. May wait for a
        running scan's own work (milliseconds), never for a hung reader."""

    def hung_readers(self) -> int:
        """Readers that hang now, each in a different process, including those of previous scanners. Beyond
        HUNG_READERS_MAX no more are detached: the scan waits."""

    def fallback(self) -> str | None:
        """Why the discovery is not the initial one, as of the last scan."""

@final
class Totals:
    """What happened on the listeners since the start. Immutable."""

    answered: int
    refused: int  # from outside the allowed networks
    disconnected: int  # disconnected before the reply
    timed_out: int  # sent no line in time, and got the default reply
    evicted: int  # had waited longest without a line when too many did, and got the default reply
    no_fds: int  # times that no file descriptor was free

@final
class Answerer:
    """Accepts polls and answers them with bytes built beforehand. No connection's error leaves it. Must not be shared
    between threads."""

    def __new__(cls, allow: list[str]) -> Answerer:
        """``allow``: networks in CIDR notation, empty for all. Raises ValueError."""

    def configure(self, allow: list[str]) -> None:
        """Sets other networks. Raises ValueError."""

    def set_replies(self, default: bytes, pools: list[tuple[str, bytes]]) -> None:
        """Sets other replies. With pools, pollers are expected to send a line."""

    def settle(self, until_s: float) -> None:
        """Until then (seconds of CLOCK_BOOTTIME) the replies need not be checked again."""

    def settled(self) -> bool:
        """Whether that time is still ahead. Saves most batches all but two calls."""

    def accept_allowed(self, listener: int, most: int) -> bool:
        """Whether an allowed poller may be waiting. At most ``most`` others are refused on the way; the first allowed
        one is answered by the next batch, whatever its listener and its ``most``. The descriptor ``listener`` must stay
        open during the call. GIL released."""

    def serve_batch(self, listener: int, most: int) -> tuple[int, list[int]]:
        """Accepts and answers at most ``most`` polls. Returns how it ended (0: no poll waits; 1: there may be more;
        -1: the listener cannot accept now, retry later) and the connections whose line is still missing, to be
        watched. The descriptor ``listener`` must stay open during the call. GIL released."""

    def readable(self, fd: int) -> bool:
        """A connection whose line was missing is readable. True when it is finished and its descriptor closed."""

    def expire(self, fd: int, *, evicted: bool = False) -> None:
        """A connection's time is over, or its place is needed (``evicted``): sends the default reply and closes
        it."""

    def totals(self) -> Totals: ...
    def answered_by_pool(self) -> dict[str, int]:
        """Replies sent since the start, for each named pool that got any; the rest of
        ``totals().answered`` was the default pool's."""

    def pollers(self) -> list[tuple[str, int, int, bool]]:
        """At most 64 recent pollers: address, polls, last_ns, allowed."""
