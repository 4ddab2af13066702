"""The facts behind the lint's findings, checked with a real HAProxy: what it does with weights, tables and keywords."""

import re
import socket
import struct
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.tools.haproxy.server_line import WITH_VALUE
from tests.tools.balancer import (
    HAPROXIES,
    Balancer,
    Peer,
    asking,
    eventually,
    haproxy,
    status_of,
    website,
)

DEFAULTS = "defaults\n mode http\n timeout connect 1s\n timeout client 5s\n timeout server 5s\n"


def ask_as(path: Path, cookie: str) -> None:
    """One request of a client who was at that host before."""
    with asking(path, f"/ HTTP/1.0\r\nCookie: SRV={cookie}\r\nX-End:") as client:
        assert b" 200 " in client.recv(4096)


FULL = "{ srv_weight(web/a) eq 0 }"
COOKIE = " cookie SRV insert\n"
TABLE = " stick-table type string size 9\n stick on req.cook(SRV)"


@pytest.mark.parametrize(
    ("persists", "comes_back"),
    [
        (COOKIE, True),
        (f"{COOKIE} ignore-persist if {FULL} {{ req.cook(SRV) a }}\n", False),
        (f"{TABLE}\n", True),
        # Only cookies are ignored.
        (f"{TABLE}\n ignore-persist if {FULL}\n", True),
        (f"{TABLE} unless {FULL} {{ req.cook(SRV),table_server_id(web) 1 }}\n", False),
    ],
    ids=["cookie", "cookie ignored", "table", "table ignored", "table with a condition"],
)
def test_persistence_at_weight_0(tmp_path: Path, persists: str, comes_back: bool) -> None:
    """Clients return to their host despite weight 0, unless a condition prevents it."""
    web = website()
    text = f"{DEFAULTS}frontend f\n bind unix@{tmp_path}/f.sock\n default_backend web\nbackend web\n{persists}"
    text += "".join(f" server {n} 127.0.0.1:{web.port} weight 100 cookie {n}\n" for n in "ab")
    with Balancer(tmp_path, text).running() as balancer:
        balancer.ask("set weight web/b 0")
        ask_as(tmp_path / "f.sock", "a")
        assert balancer.stat("web", "a")["stot"] == "1"
        balancer.ask("set weight web/b 100; set weight web/a 0")
        ask_as(tmp_path / "f.sock", "a")
        assert balancer.stat("web", "a")["stot"] == ("2" if comes_back else "1")


def test_slowstart_has_no_part_in_an_agents_way_from_0_to_100(tmp_path: Path) -> None:
    agent, web = Peer(b"0%\n"), website()
    line = f"server a 127.0.0.1:{web.port} weight 100 slowstart 1h agent-check agent-port {agent.port} agent-inter 50ms"
    text = f"{DEFAULTS}frontend f\n bind unix@{tmp_path}/f.sock\n default_backend web\nbackend web\n {line}\n"
    with Balancer(tmp_path, text).running() as balancer:
        eventually(lambda: balancer.stat("web", "a")["weight"] == "0")
        agent.answer = b"100%\n"
        # It would be 1 of 100 for minutes.
        eventually(lambda: balancer.stat("web", "a")["weight"] == "100")


def test_a_spill_that_leads_back_to_its_frontend_goes_round(tmp_path: Path) -> None:
    text = f"""{DEFAULTS}frontend f
 bind unix@{tmp_path}/f.sock
 use_backend web_all_busy if {{ be_conn_free(web) eq 0 }}
 default_backend web
backend web
 server a 127.0.0.1:9 maxconn 24 weight 0
backend web_all_busy
 server again unix@{tmp_path}/f.sock
"""
    with Balancer(tmp_path, text).running() as balancer, asking(tmp_path / "f.sock"):
        eventually(lambda: int(balancer.stat("f", "FRONTEND")["stot"]) > 20)


def test_be_conn_free_is_below_1_where_a_server_has_no_maxconn(tmp_path: Path) -> None:
    web = website()
    text = f"{DEFAULTS}frontend f\n bind unix@{tmp_path}/f.sock\n"
    text += " use_backend rest if { be_conn_free(web) lt 1 }\n default_backend web\n"
    text += f"backend web\n server a 127.0.0.1:{web.port} maxconn 9\n server b 127.0.0.1:{web.port}\n"
    text += f"backend rest\n server a 127.0.0.1:{web.port}\n"
    with Balancer(tmp_path, text).running() as balancer:
        assert status_of(tmp_path / "f.sock") == 200
        assert balancer.stat("rest", "BACKEND")["stot"] == "1"


def test_one_host_without_an_agent_gets_everything_once_the_others_are_full(tmp_path: Path) -> None:
    web = website()
    text = f"{DEFAULTS}frontend f\n bind unix@{tmp_path}/f.sock\n default_backend web\nbackend web\n"
    text += "".join(f" server {n} 127.0.0.1:{web.port} weight 100\n" for n in "abc")
    with Balancer(tmp_path, text).running() as balancer, ExitStack() as clients:
        balancer.ask("set weight web/a 0; set weight web/b 0")
        web.gate.clear()
        for _ in range(6):
            clients.enter_context(asking(tmp_path / "f.sock"))
        eventually(lambda: balancer.stat("web", "c")["scur"] == "6")
        web.gate.set()


class Names:
    """A name server on loopback whose one SRV record has a weight; every other question has no answer."""

    def __init__(self, port: int, weight: int) -> None:
        self._record = struct.pack(">HHH", 1, weight, port) + self.name("a.test")
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.asked = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @staticmethod
    def name(text: str) -> bytes:
        return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".")) + b"\0"

    @staticmethod
    def record(name: bytes, kind: int, data: bytes) -> bytes:
        return name + struct.pack(">HHIH", kind, 1, 1, len(data)) + data

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            end = query.index(b"\0", 12)
            name, kind = query[12 : end + 1], struct.unpack(">H", query[end + 1 : end + 3])[0]
            found = [self.record(name, 33, self._record)] if kind == 33 else []
            more = [self.record(self.name("a.test"), 1, socket.inet_aton("127.0.0.1"))] if found else []
            head = struct.pack(">2sHHHHH", query[:2], 0x8580, 1, len(found), 0, len(more))
            self._socket.sendto(head + query[12 : end + 5] + b"".join(found + more), client)
            self.asked += bool(found)


def test_a_server_state_file_brings_a_port_back_that_the_configuration_has_no_more(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.touch()
    text = f"global\n server-state-file {state}\n{DEFAULTS} load-server-state-from-file global\n"

    def with_port(port: int) -> Balancer:
        return Balancer(tmp_path, f"{text}backend web\n server a 127.0.0.1:{port} weight 100\n")

    with with_port(7001).running() as balancer:
        balancer.ask("set weight web/a 50%")
        state.write_text(balancer.ask("show servers state"))
    with with_port(7002).running() as balancer:
        (server,) = balancer.servers()
        assert (server["srv_uweight"], server["srv_port"]) == ("50", "7001")


def test_agent_port_without_agent_check(tmp_path: Path) -> None:
    """HAProxy accepts it without a warning, and polls no agent."""
    agent = Peer(b"50%\n")
    inter = "agent-inter 20ms"
    lines = f" server a 127.0.0.1:1 weight 100 agent-port {agent.port} {inter}\n"
    lines += f" server b 127.0.0.1:1 weight 100 agent-check agent-port {agent.port} {inter}\n"
    with Balancer(tmp_path, f"{DEFAULTS}backend web\n{lines}").running() as balancer:
        eventually(lambda: balancer.stat("web", "b")["weight"] == "50")
        assert balancer.stat("web", "a")["weight"] == "100"
        assert balancer.stat("web", "a")["agent_status"] == ""


@pytest.mark.parametrize("ignored", [False, True])
def test_weights_from_srv_records(tmp_path: Path, ignored: bool) -> None:
    """They bring a full host back, unless they are ignored."""
    # 65280 of 65535 is 255 of 256.
    web = website()
    names = Names(web.port, 65280)
    text = f"""{DEFAULTS}resolvers dns
 nameserver ns1 127.0.0.1:{names.port}
 timeout resolve 200ms
 hold valid 200ms
frontend f
 bind unix@{tmp_path}/f.sock
 default_backend web
backend web
 server-template s 1 _http._tcp.a.test resolvers dns init-addr none weight 100 {"resolve-opts ignore-weight" * ignored}
"""
    with Balancer(tmp_path, text).running() as balancer:

        def weight() -> str:
            return balancer.stat("web", "s1")["weight"]

        eventually(lambda: balancer.stat("web", "s1")["status"].startswith(("UP", "no check")))
        balancer.ask("set weight web/s1 0")
        asked = names.asked
        if ignored:
            eventually(lambda: names.asked > asked + 3)
            assert weight() == "0"
        else:
            eventually(lambda: weight() not in ("0", "100"))


@pytest.mark.parametrize("command", HAPROXIES, ids=lambda command: command[-1])
def test_the_keywords_that_take_a_value_are_those_that_haproxy_lists(tmp_path: Path, command: list[str]) -> None:
    nothing = tmp_path / "nothing.cfg"
    nothing.write_text("global\n")
    listed = haproxy("-dKall", "-q", "-c", "-f", str(nothing), command=command).stdout
    keywords = dict(re.findall(r"^\tserver <name> <addr> (\S+)(?: (\+\d|\+?-\d))?", listed, re.M))
    assert "agent-check" in keywords, listed[:500]
    assert {keyword for keyword, takes in keywords.items() if takes} <= WITH_VALUE
    # It is read as a part of `source`, with a value.
    del keywords["usesrc"]
    assert {keyword for keyword, takes in keywords.items() if not takes} & WITH_VALUE == set()
