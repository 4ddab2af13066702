"""The facts that the lint and the snippet rely on, checked with a real HAProxy on loopback.

The HAProxy is this machine's, or the first of BUSYWEIGHT_HAPROXIES: JSON, as [["/opt/haproxy", "-dS"], ["haproxy"]].
"""

import re
import subprocess
from itertools import product
from pathlib import Path

import pytest

from agent.tools.haproxy import lint, snippet
from agent.tools.haproxy.lint import _readings
from agent.tools.haproxy.model import Configuration
from agent.tools.haproxy.parse import read_files
from agent.tools.haproxy.read import configuration_files
from tests.tools.balancer import (
    Balancer,
    Peer,
    Row,
    bound_to,
    eventually,
    haproxy,
    status_of,
    version,
    website,
)

CORPUS = Path(__file__).parent / "haproxy"
# No HAProxy takes it: those before 3.2 do not know a word in it, those after do not want it.
REFUSED = CORPUS / "sound/init_state.cfg"
EVERY = sorted({*(CORPUS / "sound").iterdir(), *(CORPUS / "traps").iterdir()} - {REFUSED})
# Set in srv_agent_state where an agent check is configured (haproxy's check-t.h).
CHK_ST_AGENT = 16


def check(path: Path) -> subprocess.CompletedProcess[str]:
    return haproxy("-c", "-f", str(path))


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.name)
def test_haproxy_takes_every_configuration_of_the_corpus(path: Path) -> None:
    result = check(path)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(version() < (3, 2), reason="this HAProxy knows no init-state, or does not mind")
def test_haproxy_refuses_a_server_with_init_state_that_tracks() -> None:
    result = check(REFUSED)
    assert result.returncode == 1
    assert "init-state and tracking" in result.stderr


@pytest.mark.parametrize("pools", [[], ["shop", "mail", "a-b:c.d"]], ids=str)
def test_haproxy_takes_every_snippet_without_a_warning(tmp_path: Path, pools: list[str]) -> None:
    for index, servers in enumerate([[], [("a", "192.0.2.1", 80), ("b", "::1", 80), ("c", "localhost", 80)]]):
        path = tmp_path / f"{index}.cfg"
        path.write_text(snippet(5001, servers, pools, floor_percent=index))
        result = check(path)
        assert result.returncode == 0, result.stderr
        assert "WARNING" not in result.stderr


def differences(configuration: Configuration, rows: list[Row]) -> list[str]:
    """Where our parsing of server lines differs from HAProxy's."""
    wrong: list[str] = []
    for proxy in configuration.backends():
        theirs = [row for row in rows if row["be_name"] == proxy.name]
        for server in proxy.servers:
            name = re.compile(re.escape(server.name) + r"\d*")
            same = [row for row in theirs if name.fullmatch(row["srv_name"])]
            theirs = [row for row in theirs if row not in same]
            settings = server.settings
            ours = {(settings.weight or "1", settings.agent, settings.port if settings.agent else "")}
            real = {
                (
                    row["srv_iweight"],
                    agent := bool(int(row["srv_agent_state"]) & CHK_ST_AGENT),
                    row["srv_agent_port"] * agent,
                )
                for row in same
            }
            if ours != real:
                wrong.append(f"{server.at}: {ours} here, {real} in HAProxy")
        wrong += [f"{proxy.name}/{row['srv_name']} is HAProxy's alone" for row in theirs]
    return wrong


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.name)
def test_server_lines_are_read_as_haproxy_reads_them(tmp_path: Path, path: Path) -> None:
    texts = read_files(configuration_files([path]))
    readings = _readings(texts, {})
    with Balancer(tmp_path, *bound_to(tmp_path, *(text for _, text in texts))).running() as balancer:
        rows = balancer.servers()
    assert [] in [differences(reading, rows) for reading in readings], differences(readings[0], rows)


def test_haproxy_does_to_weights_what_the_lint_says(tmp_path: Path) -> None:
    agent, web = Peer(b"0%\n"), website()
    line = f"server s 127.0.0.1:{web.port} agent-check agent-port {agent.port} agent-inter 50ms"
    backends = {
        "of_1": f"{line}",
        "of_50": f"{line} weight 50",
        "of_200": f"{line} weight 200",
        "static": f"balance source\n {line} weight 100",
        "consistent": f"balance source\n hash-type consistent\n {line} weight 100",
        "in_order": f"balance first\n {line} weight 100",
    }
    text = "defaults\n timeout connect 1s\n timeout client 1s\n timeout server 1s\n"
    text += f"frontend f\n bind unix@{tmp_path}/f.sock\n"
    text += "".join(f"backend {name}\n {lines}\n" for name, lines in backends.items())

    def weights() -> dict[str, str]:
        return {name: balancer.stat(name, "s")["weight"] for name in backends}

    with Balancer(tmp_path, text).running() as balancer:
        eventually(lambda: set(weights().values()) == {"0"})
        agent.answer = b"50%\n"
        expected = {
            "of_1": "0",
            "of_50": "25",
            "of_200": "100",
            "static": "0",
            "consistent": "50",
            "in_order": "50",
        }
        eventually(lambda: weights() == expected)


# No request reaches the first, all go round in the second, and the agents of the third are elsewhere; the servers of
# the others have names that nobody resolves.
UNREACHABLE = {
    "zero_no_frontend.cfg",
    "spill_loops.cfg",
    "one_agent.cfg",
    "inherited.cfg",
    "weight_template.cfg",
    "dns_weights.cfg",
}


@pytest.mark.parametrize("path", [p for p in EVERY if p.name not in UNREACHABLE], ids=lambda p: p.name)
def test_clients_are_turned_away_where_the_lint_says_so_and_nowhere_else(tmp_path: Path, path: Path) -> None:
    agent, web = Peer(b"100%\n"), website()
    # Where an agent-send delays the checks by 200 ms, a shorter interval than that would lose them all.
    substitutions = {
        r"agent-(inter|addr) \S+": "",
        r"\bagent-check\b": "agent-check agent-inter 300ms",
        r"\b5001\b": str(agent.port),
        r"192\.0\.2\.\d+:\d+": f"127.0.0.1:{web.port}",
    }
    texts = [text for _, text in read_files(configuration_files([path]))]
    for pattern, by in substitutions.items():
        texts = [re.sub(pattern, by, text) for text in texts]

    def weights() -> set[str]:
        ours = [row for row in balancer.servers() if row["srv_agent_port"] == str(agent.port)]
        return {row["srv_uweight"] for row in ours if int(row["srv_agent_state"]) & CHK_ST_AGENT}

    def served() -> set[tuple[Path, str]]:
        asked = product(tmp_path.glob("front*.sock"), ("/", "/api", "/mail", "/assets/x"))
        return {(front, url) for front, url in asked if 0 < status_of(front, url) < 500}

    with Balancer(tmp_path, *bound_to(tmp_path, *texts)).running() as balancer:
        before = served()
        agent.answer = b"0%\n"
        eventually(lambda: weights() <= {"0"})
        lost = before - served()
    assert before, "nobody was served before, so nothing is proved"
    findings = [finding.what for finding in lint([path], {5001}, environment={})]
    said = any(re.search("lose all its servers|has no usable server", what) for what in findings)
    assert bool(lost) == said, lost


@pytest.mark.parametrize("guarded", [True, False], ids=["with fallback", "without"])
def test_when_all_are_busy_the_snippet_serves_from_the_same_servers(tmp_path: Path, guarded: bool) -> None:
    agent, web = Peer(b"up 50% #12/24 busy\n"), website()
    servers = [("a", "127.0.0.1", web.port), ("b", "127.0.0.1", web.port)]
    (text,) = bound_to(tmp_path, snippet(agent.port, servers, agent_inter="50ms"))
    if not guarded:
        text = text.replace("    use_backend web_all_busy", "    # use_backend web_all_busy")
    front = tmp_path / "front0.sock"

    def weights() -> set[str]:
        return {balancer.stat("web", name)["weight"] for name in ("a", "b")}

    with Balancer(tmp_path, text).running() as balancer:
        eventually(lambda: weights() == {"50"})
        assert status_of(front) == 200
        assert balancer.stat("web_all_busy", "BACKEND")["stot"] == "0"
        agent.answer = b"up 0% #30/24 busy\n"
        eventually(lambda: weights() == {"0"})
        assert status_of(front) == (200 if guarded else 503)
        if guarded:
            assert balancer.stat("web_all_busy", "BACKEND")["stot"] == "1"
            agent.answer = b"up 25% #18/24 busy\n"
            eventually(lambda: weights() == {"25"})
            assert status_of(front) == 200
            assert balancer.stat("web_all_busy", "BACKEND")["stot"] == "1"


def test_each_backend_of_the_snippet_names_its_pool_to_the_agent(tmp_path: Path) -> None:
    agent, web = Peer(b"up 0%\n", listens=True), website()
    text = snippet(agent.port, [("a", "127.0.0.1", web.port)], ["shop", "mail"], agent_inter="500ms")
    with Balancer(tmp_path, *bound_to(tmp_path, text)).running() as balancer:
        eventually(lambda: agent.received >= {b"web\n", b"shop\n", b"mail\n"})
        for pool in ("web", "shop", "mail"):
            eventually(lambda pool=pool: balancer.stat(pool, "a")["weight"] == "0")  # type: ignore[misc]
        assert status_of(tmp_path / "front0.sock", "/shop/cart") == 200
        assert balancer.stat("shop_all_busy", "BACKEND")["stot"] == "1"
        assert agent.received == {b"web\n", b"shop\n", b"mail\n"}
