"""Pure: `server`, `server-template` and `default-server` lines: which keywords take a value, and what each one sets.

Rules from HAProxy's configuration.txt, src/server.c:parse_server and src/check.c.
"""

import copy
import re

from .model import Proxy, Server, Settings
from .read import Line, Place

# Keywords of a server line that take one value, from the keyword tables of 2.6 to 3.5: a cookie may well be called
# "check". A keyword of a later version is assumed to take no value.
WITH_VALUE = frozenset(
    "addr agent-addr agent-inter agent-port agent-send alpn "  # noqa: SIM905 (a list has one word a line)
    "ca-file cc check-alpn check-pool-conn-name check-proto check-sni ciphers ciphersuites client-sigalgs "
    "cookie crl-file crt curves downinter error-limit fall fastinter guid hash-key healthcheck id "
    "idle-ping init-addr init-state inter interface ktls log-bufsize log-proto max-reuse maxconn maxqueue "
    "minconn namespace npn observe on-error on-marked-down on-marked-up pool-conn-name pool-low-conn "
    "pool-max-conn pool-purge-delay port proto proxy-v2-options quic-cc-algo redir resolve-net resolve-opts "
    "resolve-prefer resolvers rise shard sigalgs slowstart sni socks4 source ssl-max-ver ssl-min-ver "
    "tcp-md5sig tcp-ut track usesrc verify verifyhost weight ws".split()
)

# What a keyword sets in Settings: the value after it, a flag, the place where it is written.
_KEPT = {
    "agent-addr": "agent_addr",
    "agent-inter": "agent_inter",
    "agent-port": "agent_port",
    "agent-send": "agent_send",
    "maxconn": "maxconn",
    "port": "check_port",
    "track": "tracked",
    "weight": "weight",
}
_FLAGS = {
    "backup": ("backup", True),
    "no-backup": ("backup", False),
    "check": ("check", True),
    "no-check": ("check", False),
    "cookie": ("cookie", True),
    "disabled": ("disabled", True),
    "enabled": ("disabled", False),
}
_PLACED = {
    "agent-addr": "agent_addr_at",
    "agent-inter": "agent_inter_at",
    "agent-port": "agent_port_at",
    "agent-send": "agent_send_at",
    "init-state": "init_state_at",
    "slowstart": "slowstart_at",
    "weight": "weight_at",
}


def server(proxy: Proxy, line: Line) -> None:
    """A `server` or `server-template` line."""
    skip = 4 if line.words[0] == "server-template" else 3
    if len(line.words) < skip:
        return
    settings = copy.copy(proxy.default_server)
    _apply(settings, line.words[skip:], line.at)
    slots = 1
    if skip == 4 and (match := re.fullmatch(r"(?:(\d{1,6})-)?(\d{1,6})", line.words[2])):
        slots = int(match[2]) - int(match[1] or 1) + 1
    proxy.servers.append(Server(line.words[1], line.at, settings, line.words[skip - 1], slots))


def default_server(proxy: Proxy, line: Line) -> None:
    """A `default-server` line, for the server lines below it."""
    proxy.default_server_lines.add(line.at)
    _apply(proxy.default_server, line.words[1:], line.at)


def _apply(settings: Settings, words: tuple[str, ...], at: Place) -> None:
    """Applies a line's keywords on top of the settings already in force."""
    position = 0
    while position < len(words):
        keyword = words[position]
        value = words[position + 1] if keyword in WITH_VALUE and position + 1 < len(words) else ""
        position += 2 if keyword in WITH_VALUE else 1
        if keyword in _KEPT:
            setattr(settings, _KEPT[keyword], value)
        elif keyword in _FLAGS:
            name, flag = _FLAGS[keyword]
            setattr(settings, name, flag)
        if keyword in _PLACED:
            setattr(settings, _PLACED[keyword], at)
        match keyword:
            case "agent-check" if not settings.agent:
                settings.agent, settings.agent_at, settings.agent_refused = True, at, False
            case "no-agent-check":
                settings.agent, settings.agent_at, settings.agent_refused = False, None, True
            case "resolve-opts":
                settings.ignores_dns_weight = "ignore-weight" in value.split(",")
