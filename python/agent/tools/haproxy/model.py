"""Pure: what a configuration consists of, as far as it affects agent checks: proxies, their servers and rules.

Values are as written, and everything inherited is in its place already (`parse` and `server_line` put it there).
"""

from dataclasses import dataclass, field

from .read import Place


@dataclass(slots=True)
class Settings:
    """The settings after a `server` or `default-server` line. Values are as written, None if unset."""

    weight: str | None = None
    weight_at: Place | None = None
    agent: bool = False
    agent_at: Place | None = None
    agent_refused: bool = False
    agent_addr: str | None = None
    agent_addr_at: Place | None = None
    agent_inter: str | None = None
    agent_inter_at: Place | None = None
    agent_port: str | None = None
    agent_port_at: Place | None = None
    agent_send: str | None = None
    agent_send_at: Place | None = None
    check_port: str | None = None
    backup: bool = False
    disabled: bool = False
    check: bool = False
    maxconn: str | None = None
    cookie: bool = False
    tracked: str | None = None
    init_state_at: Place | None = None
    slowstart_at: Place | None = None
    ignores_dns_weight: bool = False

    @property
    def port(self) -> str | None:
        """The agent's port: its own, or that of the health check."""
        return self.agent_port if self.agent_port is not None else self.check_port


@dataclass(frozen=True, slots=True)
class Server:
    """One `server` line, or the slots of one `server-template` line."""

    name: str
    at: Place
    settings: Settings
    address: str = ""
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Rule:
    """A line that may route a request elsewhere. `target` is where, or the status of a reply of HAProxy's own.

    `words` are its condition, from `if` or `unless` on. `phase` is `tcp-request` or `http-request`, else nothing.
    """

    kind: str
    target: str
    words: tuple[str, ...]
    at: Place
    phase: str = ""


@dataclass(slots=True)
class Proxy:
    """One section. A `defaults` section is also a proxy, from which others are copied."""

    kind: str
    name: str
    at: Place
    default_server: Settings = field(default_factory=Settings)
    default_server_lines: set[Place] = field(default_factory=set)
    servers: list[Server] = field(default_factory=list)
    balance: str | None = None
    balance_at: Place | None = None
    hash_type: str = "map-based"
    binds: list[str] = field(default_factory=list)
    binds_tls: set[bool] = field(default_factory=set)
    cookie_at: Place | None = None
    stick_at: Place | None = None
    ignores_persistence: bool = False
    all_backups: bool = False
    default_backend: str | None = None
    default_backend_at: Place | None = None
    rules: list[Rule] = field(default_factory=list)
    acls: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    disabled: bool = False
    state_from: str = "none"

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(slots=True)
class Configuration:
    """Everything that was read. `sections` counts sections of all kinds."""

    proxies: list[Proxy] = field(default_factory=list)
    sections: int = 0
    state_file: bool = False

    def backends(self) -> list[Proxy]:
        return [p for p in self.proxies if p.kind in ("backend", "listen") and not p.disabled]

    def frontends(self) -> list[Proxy]:
        return [p for p in self.proxies if p.kind in ("frontend", "listen") and not p.disabled]
