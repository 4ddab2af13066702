"""Pure: what is checked: a parsed configuration, and what is known about the agent and HAProxy."""

from dataclasses import dataclass

from .finding import number
from .model import Configuration, Proxy, Server, Settings

DEFAULT_WEIGHT = "1"
# HAProxy's default algorithm is random since 3.3, and was roundrobin before.
RANDOM_SINCE = (3, 3)
# These look servers up in a map that is built once; with `hash-type consistent` it is a tree.
HASHING = ("source", "uri", "url_param", "hash", "hdr(", "rdp-cookie")


@dataclass(frozen=True, slots=True)
class Scope:
    """`version` is HAProxy's, () if unknown; with `bare_replies` the agent never says `up`. `pools` are the names of
    the agent's pools, if its configuration is known."""

    configuration: Configuration
    ports: frozenset[int]
    all_checks: bool
    floor_above_zero: bool
    bare_replies: bool
    version: tuple[int, ...]
    pools: frozenset[str]

    def ours(self, backend: Proxy) -> list[Server]:
        """The backend's servers that poll the agent."""
        return [server for server in backend.servers if self.polls_ours(server.settings)]

    def polls_ours(self, settings: Settings) -> bool:
        """Whether a server polls the agent, judging by its port."""
        return settings.agent and self.is_ours(settings.port)

    def is_ours(self, port: str | None) -> bool:
        """Whether the agent listens on this port, or all agents are to be checked."""
        return self.all_checks or number(port) in self.ports

    def balance(self, backend: Proxy) -> str:
        """The effective algorithm."""
        return backend.balance or ("random" if self.version >= RANDOM_SINCE else "roundrobin")


def weight(server: Server) -> int | None:
    """A server's own weight, None if a variable is unknown here."""
    return number(server.settings.weight or DEFAULT_WEIGHT)


def slots(servers: list[Server]) -> int:
    """How many servers these lines define."""
    return sum(server.slots for server in servers)


def is_hash(balance: str) -> bool:
    """Whether a request's content determines its server."""
    return balance.startswith(HASHING)
