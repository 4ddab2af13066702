"""Where Prometheus may read: opens, exchanges and closes the metrics endpoint.

The library is imported only where ``[metrics] listen`` asks for it. What is told is `metrics`'s.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.config import values
from agent.config.schema import Config
from agent.serve.server import ListenError, open_listener
from agent.serve.startup import StartError

if TYPE_CHECKING:
    from agent.serve.metrics import Endpoint

log = logging.getLogger("busyweight")


class Exporter:
    """``report`` is the agent's status as plain values; called on the event loop."""

    def __init__(self, report: Callable[[], dict[str, Any]]) -> None:
        self._report = report
        self._endpoint: Endpoint | None = None

    def prepare(self, config: Config) -> "Endpoint | None":
        """The endpoint that a configuration asks for; the one that is open if that is it. Raises StartError."""
        address = config.metrics.listen
        if address is None:
            return None
        if self._endpoint and self._endpoint.wanted == address:
            return self._endpoint
        try:
            from agent.serve import metrics
        except ModuleNotFoundError as error:
            if error.name != "prometheus_client":
                raise
            raise StartError(
                f'metrics.listen = "{values.show_address(address)}" needs the library prometheus-client: '
                "pip install 'busyweight[metrics]', or apt install python3-prometheus-client"
            ) from None
        leaving = [self._endpoint.listener] if self._endpoint else []
        try:
            listener = open_listener(address, metrics.BACKLOG, beside=leaving)
        except ListenError as error:
            raise StartError(f"metrics: {error}") from None
        endpoint = metrics.Endpoint(listener, self._report, wanted=address)
        log.info("metrics on %s", values.show_address(endpoint.address))
        return endpoint

    def discard(self, prepared: "Endpoint | None") -> None:
        """What was prepared will not be taken."""
        if prepared and prepared is not self._endpoint:
            prepared.close()

    def switch(self, prepared: "Endpoint | None") -> None:
        """Prometheus may read here from now on, or nowhere."""
        former, self._endpoint = self._endpoint, prepared
        if former and former is not prepared:
            former.close()

    def close(self) -> None:
        """No more scrapes."""
        self.switch(None)
