"""Opens, replaces and closes the metrics endpoint.

The library is imported only if ``[metrics] listen`` is set, on a thread, because that takes long. `metrics` defines
what is exported. The agent serves HAProxy first: problems with metrics never prevent a start or a reload. They are
reported, and retried now and then.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from agent.config import values
from agent.config.schema import Config
from agent.operate.status import MetricsStatus
from agent.operate.threads import run_in_thread
from agent.serve.server import Address, open_listener

if TYPE_CHECKING:
    from agent.serve.metrics import Endpoint

log = logging.getLogger("busyweight")

RETRY_S = 30.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a configuration asks for: the open endpoint, or none because of ``trouble``."""

    wanted: Address | None
    endpoint: "Endpoint | None" = None
    trouble: str | None = None


class Exporter:
    """``report`` is the agent's status as plain values; called on the event loop."""

    def __init__(self, report: Callable[[], dict[str, Any]]) -> None:
        self._report = report
        self._now = Prepared(None)
        self._retry: asyncio.TimerHandle | None = None
        self._trying: asyncio.Task[None] | None = None

    async def prepare(self, config: Config) -> Prepared:
        """Prepares what a configuration asks for, to be switched to or discarded; it reuses the open endpoint if that
        fits."""
        return await self._prepare(config.metrics.listen)

    async def _prepare(self, wanted: Address | None) -> Prepared:
        endpoint = self._now.endpoint
        if wanted is None or (endpoint and endpoint.wanted == wanted):
            return Prepared(wanted, endpoint if wanted else None)
        try:
            metrics = await run_in_thread(_library)
            listener = open_listener(wanted, metrics.BACKLOG, beside=[endpoint.listener] if endpoint else [])
            try:
                return Prepared(wanted, metrics.Endpoint(listener, self._report, wanted=wanted))
            except BaseException:
                listener.close()
                raise
        except ModuleNotFoundError as error:
            if error.name != "prometheus_client":
                return Prepared(wanted, None, f"metrics cannot be served: {error}")
            what = (
                f'metrics.listen = "{values.show_address(wanted)}" needs the library prometheus-client: '
                "pip install 'busyweight[metrics]', or apt install python3-prometheus-client"
            )
            return Prepared(wanted, None, what)
        except Exception as error:
            return Prepared(wanted, None, f"metrics: {error}")

    def discard(self, prepared: Prepared) -> None:
        """Closes what was prepared but will not be used."""
        if prepared.endpoint and prepared.endpoint is not self._now.endpoint:
            prepared.endpoint.close()

    def switch(self, prepared: Prepared) -> None:
        """Serves metrics here from now on, or nowhere. In case of a problem the open endpoint stays until the wanted
        one is available."""
        former, told = self._now.endpoint, self._now.trouble
        endpoint = former if prepared.trouble else prepared.endpoint
        self._now = Prepared(prepared.wanted, endpoint, prepared.trouble)
        if self._retry:
            self._retry.cancel()
            self._retry = None
        if former and former is not endpoint:
            former.close()
        if endpoint and endpoint is not former:
            log.info("serving metrics on %s", values.show_address(endpoint.address))
        if prepared.trouble:
            if prepared.trouble != told:
                log.warning("%s; running without metrics, retrying every %g s", prepared.trouble, RETRY_S)
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._trying = asyncio.get_running_loop().create_task(self._again(self._now))

    async def _again(self, former: Prepared) -> None:
        prepared = await self._prepare(former.wanted)
        if self._now is former:
            self.switch(prepared)
        else:  # a reload has asked for something else meanwhile
            self.discard(prepared)

    def status(self) -> MetricsStatus:
        """Where metrics are served, and why not as configured."""
        endpoint = self._now.endpoint
        return MetricsStatus(values.show_address(endpoint.address) if endpoint else None, self._now.trouble)

    def close(self) -> None:
        """No more scrapes."""
        self.switch(Prepared(None))


def _library() -> ModuleType:
    from agent.serve import metrics

    return metrics
