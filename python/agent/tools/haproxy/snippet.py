"""Pure: a haproxy.cfg fragment that uses the agent and avoids all mistakes that `lint` finds.

People read, paste and change it, so a comment explains each line that must not be left out. It is self-contained: it
needs nothing from `defaults` and changes nothing for what follows it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from agent.config.schema import Pool

# Valid names of proxies and servers in HAProxy.
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
_NAME_RULE = "names in HAProxy contain only letters, digits, - _ . and :"
_DURATION = re.compile(r"[1-9]\d*(us|ms|s|m|h|d)?")
_MAX_PORT = 65535
# Cores of one host, if neither the caller nor the configuration knows better.
_CORES = 24

# name, host, port
WebServer = tuple[str, str, int]
EXAMPLE_SERVERS: tuple[WebServer, ...] = (("web1", "192.0.2.11", 80), ("web2", "192.0.2.12", 80))


class SnippetError(Exception):
    """A name, address or time that HAProxy would not accept: which, and what it accepts."""

    def __str__(self) -> str:
        subject, name, rule = self.args
        return f"{subject} {name!r}: {rule}"


def parse_server(text: str) -> WebServer:
    """`NAME=ADDR:PORT` or `NAME=[ADDR]:PORT` -> (name, host, port). Raises SnippetError."""
    name, _, address = text.partition("=")
    host, _, port = address.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (name and host and port.isascii() and port.isdigit()):
        raise SnippetError("server", text, "write NAME=ADDR:PORT, such as web1=192.0.2.11:80")
    server = (name, host, int(port))
    _check_servers([server])
    return server


def capacities(pools: Iterable[Pool]) -> dict[str, int]:
    """How many busy processes make a host full, by backend name, for pools with such a number."""
    found: dict[str, int] = {}
    for pool in pools:
        found.pop(pool.name or "web", None)
        if pool.weight.count == "processes" and not isinstance(pool.weight.capacity, str):
            found[pool.name or "web"] = max(1, round(pool.weight.capacity))
    return found


def snippet(  # noqa: PLR0913 - what is of the configuration is named at the call
    listen_port: int,
    servers: Sequence[WebServer] = (),
    pools: Sequence[str] = (),
    *,
    agent_inter: str = "250ms",
    floor_percent: int = 0,
    maxconns: Mapping[str, int] | None = None,
    cores: int = _CORES,
) -> str:
    """The fragment, one backend `web` and one for each pool, each with its spill. Raises SnippetError.

    `listen_port` is the agent's, `servers` are its hosts as HAProxy reaches them (examples if there are none),
    `agent_inter` is a time in HAProxy's format, `floor_percent` the agent's floor. A host's maxconn is its pool's
    in `maxconns` (see `capacities`), else `cores`.
    """
    if not 0 < listen_port <= _MAX_PORT:
        raise SnippetError("port", str(listen_port), f"choose one from 1 to {_MAX_PORT}")
    if not _DURATION.fullmatch(agent_inter):
        raise SnippetError("agent-inter", agent_inter, "write a number and us, ms, s, m, h or d, such as 250ms")
    for pool in pools:
        if not _NAME.fullmatch(pool):
            raise SnippetError("pool", pool, _NAME_RULE)
    _check_servers(servers)
    backends = list(dict.fromkeys(("web", *pools)))
    parts = [_head(listen_port, not servers, floor_percent), _frontend(backends)]
    agent = f"agent-check agent-port {listen_port} agent-inter {agent_inter}"
    for backend in backends:
        known = (maxconns or {}).get(backend)
        send = f' agent-send "{backend}\\n"' if pools else ""
        parts.append(_backend(backend, servers or EXAMPLE_SERVERS, known or cores, bool(known), f"{agent}{send}"))
        parts.append(_all_busy(backend, servers or EXAMPLE_SERVERS))
    return "\n".join(parts)


def _check_servers(servers: Sequence[WebServer]) -> None:
    names: set[str] = set()
    for name, host, port in servers:
        if not _NAME.fullmatch(name):
            raise SnippetError("server", name, _NAME_RULE)
        if name in names:
            raise SnippetError("server", name, "given twice; give each server its own name")
        if not re.fullmatch(r"[A-Za-z0-9_.:%-]+", host):
            raise SnippetError("server", name, f"{host!r} is not an address or host name")
        if not 0 < port <= _MAX_PORT:
            raise SnippetError("server", name, f"choose a port from 1 to {_MAX_PORT}, not {port}")
        names.add(name)


def _head(listen_port: int, examples: bool, floor_percent: int) -> str:
    text = f"""\
# HAProxy asks the busyweight agent on each server (TCP port {listen_port}) how much of its host is free.
#
# The agent speaks plain TCP without a password: let only the balancers reach its port (`allow` in
# busyweight.toml, or a firewall), and make it listen on an address that they can reach, which the default,
# 127.0.0.1, is not.
# HAProxy does not log weight changes. To see the weights:  echo "show stat" | socat stdio <the stats socket>
#
# After a reload each server has its full weight until its agent is polled again. To keep the weights, add
#     server-state-file /var/lib/haproxy/server-state       to `global`,
#     load-server-state-from-file global                    to the backends that use agent-check,
# and before each reload (ExecReload= in a drop-in of haproxy.service) save them:
#     echo "show servers state" | socat stdio <the stats socket> > /var/lib/haproxy/server-state
# Delete that file when you change a server's port: HAProxy takes the old one from it, without a word.
"""
    if floor_percent > 0:
        text += f"""\
#
# The agent's floor is {floor_percent}%, so a full host stays in the pool. The *_all_busy backends below are
# for when that floor is lowered to 0%.
"""
    if examples:
        text += "#\n# The servers are examples; name yours:  busyweight haproxy snippet NAME=ADDR:PORT ...\n"
    return text


def _frontend(backends: list[str]) -> str:
    lines = ["frontend www", "    bind :80", "    mode http", "    timeout client 30s"]
    if len(backends) > 1:
        lines.append("    # Examples: replace them with what tells the pools' requests apart.")
        lines += [f"    acl for_{name} path_beg /{name}/" for name in backends[1:]]
    lines.append("""\
    # A full host replies 0% and leaves its backend. be_conn_free counts the free slots (see maxconn) of the hosts
    # that remain. It is 0 when a spike fills them all, and when all hosts have left: then new requests go to all
    # hosts, jobs or not. Keep this rule before the one that routes to the backend, in every frontend that has one.
    # Without it a spike overloads the remaining hosts, and once the last one leaves, every client gets a 503.\
""")
    default, *others = backends
    for name in others:
        lines.append(f"    use_backend {name}_all_busy if for_{name} {{ be_conn_free({name}) eq 0 }}")
        lines.append(f"    use_backend {name} if for_{name}")
    lines.append(f"    use_backend {default}_all_busy if {{ be_conn_free({default}) eq 0 }}")
    return "\n".join([*lines, f"    default_backend {default}", ""])


def _backend(name: str, servers: Sequence[WebServer], maxconn: int, configured: bool, agent: str) -> str:
    meant = "weight.capacity in the configuration" if configured else "the cores of the machine that printed this"
    sending = """\
    # agent-send names the agent's pool. Set it on every agent-checked server in the whole configuration or on
    # none: a single one delays each agent-check without it by 200 ms.
"""
    lines = f"""\
backend {name}
    mode http
    timeout connect 5s
    timeout server 30s
    # Without this, a check fails that takes longer than agent-inter, as it may on a host that is very busy.
    timeout check 2s
    # leastconn, random and `hash-type consistent` also follow the agent. static-rr and the plain hashes
    # (source, uri, hdr) do not: they support no weights other than 0% and 100%. random and hashes may choose a
    # server at its maxconn: with them, end the rule above with  or {{ queue({name}) gt 0 }}
    balance roundrobin
    # weight 100: HAProxy takes the agent's percentage of it and rounds down. With the default weight, 1,
    # everything below 100% is 0. Bigger hosts may have up to 256.
    # check: the agent tells how busy a host is, not whether its web server works.
    # maxconn {maxconn}: the requests that one host can serve at once, {meant}.
    # Each balancer counts only its own: with two balancers write half, with three a third. Requests that only
    # wait (websockets, long polls) count too: add as many as a host usually has of them.
    # To keep a spike on the hosts in the pool, remove maxconn. Then jobs on the other hosts are not slowed
    # down, but when jobs fill most hosts, most requests of the spike time out.
{sending if "agent-send" in agent else ""}\
    default-server check weight 100 maxconn {maxconn} {agent}
"""
    return lines + "".join(f"    server {n} {_address(host, port)}\n" for n, host, port in servers)


def _all_busy(name: str, servers: Sequence[WebServer]) -> str:
    lines = f"""\
# The same servers, for when the pool is full: `track` copies their health, and without agent-check their
# weight stays. The `no-` keywords and `maxconn 0` undo what a default-server in `defaults` may have set.
backend {name}_all_busy
    mode http
    timeout connect 5s
    timeout server 30s
    balance leastconn
    default-server no-check no-agent-check weight 100 maxconn 0
"""
    return lines + "".join(f"    server {n} {_address(host, port)} track {name}/{n}\n" for n, host, port in servers)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
