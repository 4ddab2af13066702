"""The agent's status as Prometheus metrics, served over HTTP.

Imported only if ``[metrics] listen`` is set. A scrape never touches the agent's parts: it asks the event loop for a
status, and formats it on a separate thread. Between scrapes there is no thread and no timer, and a client can delay
neither polls nor, beyond a deadline, other scrapes.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from agent.operate.listener import ListenerWatch
from agent.operate.override import OVERRIDE_KINDS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("busyweight")

# Scrapes at the same time: a pair of Prometheus servers, and a person.
SCRAPES_MAX = 4

# Deadline of a whole scrape; Prometheus itself times out after 10 s.
DEADLINE_S = 10.0

# How long the event loop may take to return the status.
TELL_WITHIN_S = 5.0

# How long to pause a listener that cannot accept, so that it does not spin.
STUCK_PAUSE_S = 0.5

BACKLOG = 16

Report = dict[str, Any]


class NoReportError(RuntimeError):
    """The agent did not return its status in time."""


def _gauge(name: str, text: str, samples: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"busyweight_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, samples: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
    family = CounterMetricFamily(f"busyweight_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _one(value: float | None) -> list[tuple[tuple[str, ...], float]]:
    """A metric without labels; no sample if there is no value."""
    return [] if value is None else [((), value)]


def families(report: Report) -> Iterator[Metric]:
    """A status (see ``status.report``) as metrics. The default pool's label is empty."""
    yield _gauge("build_info", "The agent's version.", [((report["agent"]["version"],), 1)], "version")
    yield from _said(report["pools"])
    yield from _counted(report["pools"])
    yield from _sample(report["sample"], report["scanner"])
    yield from _scans(report["scanner"])
    yield from _polls(report["polls"])
    yield from _operators(report["override"], report["config"])


def _said(pools: list[dict[str, Any]]) -> Iterator[Metric]:
    weights = [((pool["pool"],), pool["weight"] / 100) for pool in pools if pool["weight"] is not None]
    yield _gauge(
        "weight_ratio", "The weight sent, as a fraction of the full weight; absent while none is sent.", weights, "pool"
    )
    known = [((pool["pool"],), float(pool["known"])) for pool in pools]
    yield _gauge("known", "Whether the reply is based on a count or an override; 0 is unknown.", known, "pool")


def _counted(pools: list[dict[str, Any]]) -> Iterator[Metric]:
    counted = [(pool, pool["counts"]) for pool in pools if pool["counts"]]
    busy = [((pool["pool"],), _busy(pool["count"], of)) for pool, of in counted]
    yield _gauge("busy", "Busy processes, threads or cores, as the pool counts, including weight.others.", busy, "pool")
    for name, key, text in (
        ("worker_cores", "cores_milli", "Cores that workers use, if the pool counts them."),
        ("other_cores", "others_milli", "Cores that the cgroups in weight.others use."),
    ):
        yield _gauge(name, text, [((pool["pool"],), of[key] / 1e3) for pool, of in counted], "pool")
    capacity = [
        ((pool["pool"],), of["total_threads"] if pool["capacity"] is None else pool["capacity"]) for pool, of in counted
    ]
    yield _gauge("capacity", "How many busy processes, threads or cores make the host full.", capacity, "pool")
    workers, threads = [], []
    for pool, of in counted:
        name = pool["pool"]
        workers += [((name, "busy"), of["busy_processes"]), ((name, "idle"), of["workers"] - of["busy_processes"])]
        threads += [((name, "busy"), of["busy_threads"]), ((name, "idle"), of["total_threads"] - of["busy_threads"])]
    yield _gauge("workers", "Worker processes, with a job or without.", workers, "pool", "state")
    yield _gauge("threads", "Threads of the workers, with a job or without.", threads, "pool", "state")
    for name, key, text in (
        ("untitled_workers", "untitled", "Workers busy by their CPU time, whose titles say idle."),
        ("stopping_workers", "stopping", "Workers that take no more jobs."),
        ("forked_copies", "copies", "Forked copies of workers, which do not count as workers."),
        ("unparsable_titles", "unparsable", "Titles that name the program but show no valid count."),
        ("unread_processes", "unread", "Possible workers that were never read: the agent may not, or a reader hung."),
        ("quarantined_processes", "quarantined", "Processes that blocked a reader and wait for a retry."),
    ):
        yield _gauge(name, text, [((pool["pool"],), of[key]) for pool, of in counted], "pool")
    hidden = [((pool["pool"],), float(pool["hidden"])) for pool, _ in counted]
    yield _gauge(
        "hidden_workers", "Workers that do not count because workers.comm does not match their names.", hidden, "pool"
    )
    ages = [((pool["pool"],), of["oldest_ms"] / 1e3) for pool, of in counted]
    yield _gauge(
        "oldest_reading_age_seconds", "Age of the oldest title reading in use, at the last scan.", ages, "pool"
    )


def _busy(count: str, of: dict[str, int]) -> float:
    busy = {"processes": of["busy_processes"], "threads": of["busy_threads"], "cpu": of["cores_milli"] / 1e3}
    return busy[count] + of["others_milli"] / 1e3


def _sample(sample: dict[str, Any] | None, scanner: dict[str, Any]) -> Iterator[Metric]:
    of = sample or {}
    yield _gauge(
        "sample_age_seconds", "Time since the start of the last scan that produced a sample.", _one(scanner["age_s"])
    )
    yield _gauge("visible", "Whether processes are visible; absent without a recent sample.",
                 _one(of.get("visible")))  # fmt: skip
    yield _gauge("processes", "Processes known to the discovery.", _one(of.get("processes")))
    yield _gauge("unreadable_processes", "Processes that the agent may not read.", _one(of.get("unreadable")))
    took_s = None if sample is None else sample["took_ms"] / 1e3
    yield _gauge("last_scan_duration_seconds", "Duration of the last scan.", _one(took_s))
    found_by = [((sample["discovery"],), 1.0)] if sample else []
    yield _gauge("discovery_info", "How workers are found: sweep, cgroup or ebpf.", found_by, "discovery")


def _scans(scanner: dict[str, Any]) -> Iterator[Metric]:
    ended = scanner["ended"]
    fell_back = float(scanner["fallback"] is not None)
    yield _gauge(
        "discovery_fallback", "Whether the agent fell back to another discovery since the start.", _one(fell_back)
    )
    yield _gauge(
        "scan_running_seconds", "How long the current scan has been running; 0 without one.", _one(scanner["for_s"])
    )
    yield _gauge("hung_readers", "Reader threads that hang in a process.", _one(scanner["hung_readers"]))
    outcomes = [((outcome,), ended[outcome]) for outcome in ("done", "failed")]
    yield _counter("scans_total", "Finished scans.", outcomes, "outcome")
    yield SummaryMetricFamily(
        "busyweight_scan_duration_seconds",
        "Duration of scans.",
        count_value=ended["done"],
        sum_value=ended["took_s"],
    )
    yield _counter("scan_cpu_seconds_total", "CPU time used by scans.", _one(ended["cost_s"]))
    yield _counter(
        "vanished_processes_total", "Processes that exited while they were being read.", _one(ended["vanished"])
    )


def _polls(polls: dict[str, Any]) -> Iterator[Metric]:
    outcomes = [((outcome,), polls[outcome]) for outcome in ("answered", "refused", "disconnected")]
    yield _counter(
        "polls_total", "Polls: answered, refused (not in allow), or disconnected before the reply.", outcomes, "outcome"
    )
    replies = [((each["pool"], each["outcome"]), each["replies"]) for each in polls["replies"]]
    yield _counter("replies_total", "Replies by what they are based on: measured, unknown, ordered (an override).",
                   replies, "pool", "outcome")  # fmt: skip
    reasons = [((reason,), polls[reason]) for reason in ("timed_out", "evicted")]
    yield _counter(
        "missing_lines_total", "Polls answered for the default pool because no agent-send line came.", reasons, "reason"
    )
    yield _counter("fd_shortages_total", "Times that no file descriptor was free.", _one(polls["no_fds"]))


def _operators(override: dict[str, Any] | None, config: dict[str, Any]) -> Iterator[Metric]:
    of = override or {"kind": None, "until": None}
    kinds = [((kind,), float(kind == of["kind"])) for kind in OVERRIDE_KINDS]
    yield _gauge("override", "Whether an operator's override is active.", kinds, "kind")
    yield _gauge("override_end_timestamp_seconds", "When the override expires, if it does.", _one(of["until"]))
    reload, reloads = config["reload"], config["reloads"]
    outcomes = [((outcome,), reloads[outcome]) for outcome in ("ok", "failed")]
    yield _counter("config_reloads_total", "Reloads of the configuration.", outcomes, "outcome")
    well = float(reload is None or reload["ok"])
    yield _gauge("config_last_reload_successful", "Whether the last reload succeeded.", _one(well))
    yield _gauge("config_last_reload_success_timestamp_seconds", "When the current configuration was loaded.",
                 _one(reloads["taken"]))  # fmt: skip


class _Collector:
    def __init__(self, ask: Callable[[], Report]) -> None:
        self._ask = ask

    def collect(self) -> Iterator[Metric]:
        return families(self._ask())


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are not logged."""


class _Server(ThreadingMixIn, WSGIServer):
    """Accepts on the event loop, when the listener can be read; each scrape has a thread."""

    daemon_threads = True
    block_on_close = False
    timeout = 0.0

    def __init__(self, listener: socket.socket, app: "WSGIApplication") -> None:
        address = listener.getsockname()
        super().__init__(address[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        # server_bind would ask the DNS for it.
        self.server_name, self.server_port = address[:2]
        self.setup_environ()
        self.set_app(app)
        self._loop = asyncio.get_running_loop()
        self._deadlines: dict[socket.socket, asyncio.TimerHandle] = {}
        self._watch = ListenerWatch(self._loop, listener, self.handle_request, STUCK_PAUSE_S)
        self._watch.start()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except BlockingIOError:
            raise
        except OSError:
            self._watch.back_off()
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._deadlines) >= SCRAPES_MAX:
            request.close()
            return
        self._deadlines[request] = self._loop.call_later(DEADLINE_S, self._expire, request)
        super().process_request(request, client_address)

    @staticmethod
    def _expire(request: socket.socket) -> None:
        # Wakes up its thread, which then sees a closed connection.
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        # The loop may have ended before this thread.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._forget, request)

    def _forget(self, request: socket.socket) -> None:
        if deadline := self._deadlines.pop(request, None):
            deadline.cancel()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("metrics: %s went away", client_address[0], exc_info=True)

    def server_close(self) -> None:
        self._watch.close()
        super().server_close()


class Endpoint:
    """Serves ``report``, which is called on the running event loop, on a listening socket that it owns from now on.
    ``wanted`` is the configured address."""

    def __init__(self, listener: socket.socket, report: Callable[[], Report], *, wanted: tuple[str, int]) -> None:
        self.listener = listener
        self.wanted = wanted
        self._loop = asyncio.get_running_loop()
        self._report = report
        registry = CollectorRegistry()
        registry.register(_Collector(self._ask))
        ProcessCollector(registry=registry)
        self._app = make_wsgi_app(registry)
        self.address: tuple[str, int] = listener.getsockname()[:2]
        self._server = _Server(listener, self._serve)

    def close(self) -> None:
        """Accepts no more scrapes; running ones are finished."""
        self._server.server_close()

    def _serve(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        try:
            answer: Iterable[bytes] = self._app(environ, start_response)
        except NoReportError as error:
            start_response("503 Service Unavailable", [("Content-Type", "text/plain")])
            answer = [f"{error}\n".encode()]
        return answer

    def _ask(self) -> Report:
        """The status, from another thread."""
        told: Future[Report] = Future()

        def tell() -> None:
            try:
                told.set_result(self._report())
            except Exception as error:
                told.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(tell)
            return told.result(TELL_WITHIN_S)
        except (TimeoutError, RuntimeError):
            raise NoReportError("the agent does not return its status") from None
