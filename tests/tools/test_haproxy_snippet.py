"""The snippet: what it must contain, and what it refuses. test_haproxy_real runs it."""

import re
from pathlib import Path

import pytest

from agent.config import toml
from agent.tools.haproxy import SnippetError, capacities, lint, parse_server, snippet

SERVERS = [("a", "192.0.2.11", 80), ("b", "2001:db8::2", 8080)]


@pytest.mark.parametrize("pools", [[], ["shop", "mail"], ["web"]], ids=str)
@pytest.mark.parametrize("servers", [[], SERVERS], ids=["examples", "servers"])
def test_the_lint_finds_nothing_in_a_snippet(
    tmp_path: Path, servers: list[tuple[str, str, int]], pools: list[str]
) -> None:
    path = tmp_path / "haproxy.cfg"
    path.write_text(snippet(5001, servers, pools))
    topics = [(f.severity, f.what.split()[:4]) for f in lint([path], {5001}, environment={})]
    # The note proves that the lint saw agent checks at all. The state file is in `global`, not in a snippet.
    assert topics == [("note", ["No", "server", "state", "file"])]


def test_the_lint_finds_nothing_in_what_the_readme_shows(tmp_path: Path) -> None:
    readme = Path(__file__).parents[2] / "README.md"
    [shown] = re.findall(r"```haproxy\n(.*?)```", readme.read_text(), re.S)
    (tmp_path / "haproxy.cfg").write_text(shown)
    [note] = lint([tmp_path / "haproxy.cfg"], {5001}, environment={})
    assert note.what.startswith("No server state file")


def test_all_servers_send_their_pool_or_none_sends() -> None:
    assert "agent-send" not in snippet(5001, SERVERS)
    text = snippet(5001, SERVERS, ["shop"])
    lines = [line for line in text.splitlines() if " agent-check agent-port" in line]
    assert [line.rpartition("agent-send ")[2] for line in lines] == ['"web\\n"', '"shop\\n"']


def test_it_asks_the_port_and_as_often_as_told() -> None:
    assert "agent-port 7001 agent-inter 250ms" in snippet(7001, SERVERS)
    assert "agent-port 7001 agent-inter 1s" in snippet(7001, SERVERS, agent_inter="1s")


def test_it_speaks_of_the_floor_where_there_is_one() -> None:
    assert "floor" not in snippet(5001)
    assert "floor is 5%" in snippet(5001, floor_percent=5)


def test_each_pool_has_its_own_spill() -> None:
    """Each spills at its own capacity, into its own second backend."""
    text = snippet(5001, SERVERS, ["shop", "mail"], maxconns={"web": 48, "mail": 12}, cores=16)
    rules = re.findall(r"^    use_backend (\w+)_all_busy if .*{ be_conn_free\((\w+)\) eq 0 }", text, re.M)
    assert rules == [("shop", "shop"), ("mail", "mail"), ("web", "web")]
    limits = re.findall(r"backend (\w+)\n(?:(?!backend).*\n)*?.* maxconn (\d+) agent-check", text)
    assert limits == [("web", "48"), ("shop", "16"), ("mail", "12")]
    # What spills over has no limit of its own, or it would be turned away from there.
    assert re.findall(r"backend (\w+)_all_busy\n(?:(?!backend).*\n)*?.* maxconn 0\n", text) == ["web", "shop", "mail"]


def test_the_comment_on_maxconn() -> None:
    """It says what the number means, how balancers share it, and how to do without it."""
    lines = snippet(5001, SERVERS, maxconns={"web": 48}).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("    # maxconn 48: "))
    assert "weight.capacity" in lines[at]
    assert "cores" in next(line for line in snippet(5001).splitlines() if line.startswith("    # maxconn 24: "))
    beside = " ".join(lines[at:])
    assert "with two balancers write half" in beside
    assert "remove maxconn" in beside


@pytest.mark.parametrize("hosts", [1, 100])
def test_its_rules_are_the_same_for_any_number_of_hosts(tmp_path: Path, hosts: int) -> None:
    servers = [(f"h{i}", f"192.0.2.{i}", 80) for i in range(hosts)]
    text = snippet(5001, servers)
    assert text.partition("backend web\n")[0] == snippet(5001, SERVERS).partition("backend web\n")[0]
    assert text.count(" track web/h") == hosts
    (tmp_path / "haproxy.cfg").write_text(text)
    found = [f.what for f in lint([tmp_path / "haproxy.cfg"], {5001}, environment={})]
    # One host has nobody to share with, and nothing else is wrong.
    assert [what.startswith("No server state file") for what in found] == [True] + [False] * (hosts == 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ('[weight]\ncapacity = "slots"\ncount = "threads"', {}),
        ("[weight]\ncapacity = 48", {"web": 48}),
        ("[weight]\ncapacity = 0.2", {"web": 1}),
        ('[weight]\ncapacity = 48\ncount = "threads"', {}),
        ("[weight]\ncapacity = 48\n[pools.mail]\n[pools.shop]\ncapacity = 8", {"web": 48, "mail": 48, "shop": 8}),
        ('[weight]\ncapacity = 48\n[pools.web]\ncapacity = "cores"', {}),
    ],
)
def test_the_capacities_known_are_those_given_in_processes(text: str, found: dict[str, int]) -> None:
    assert capacities(toml.parse(text, "busyweight.toml").all_pools) == found


def test_it_says_so_when_the_servers_are_examples() -> None:
    assert "The servers are examples" in snippet(5001)
    assert "The servers are examples" not in snippet(5001, SERVERS)


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("web1=192.0.2.11:80", ("web1", "192.0.2.11", 80)),
        ("web1=[::1]:80", ("web1", "::1", 80)),
        ("web1=host.example.com:8080", ("web1", "host.example.com", 8080)),
    ],
)
def test_a_server_is_read_as_name_address_port(text: str, server: tuple[str, str, int]) -> None:
    assert parse_server(text) == server


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web1",
        "web1=192.0.2.11",
        "=192.0.2.11:80",
        "web1=:80",
        "a b=h:80",
        "a=h:0",
        "a=h:65536",
        "a=h h:1",
        "a=h:x",
    ],
)
def test_a_server_that_haproxy_would_not_take_is_refused_by_name(text: str) -> None:
    with pytest.raises(SnippetError, match=r"^server '"):
        parse_server(text)


def test_two_servers_of_one_name_are_refused() -> None:
    with pytest.raises(SnippetError, match="twice"):
        snippet(5001, [("a", "192.0.2.1", 80), ("a", "192.0.2.2", 80)])


@pytest.mark.parametrize(
    ("port", "pools", "inter"),
    [(0, [], "1s"), (65536, [], "1s"), (5001, ["a b"], "1s"), (5001, ['"'], "1s"), (5001, [], "soon")],
)
def test_what_would_break_the_fragment_is_refused(port: int, pools: list[str], inter: str) -> None:
    with pytest.raises(SnippetError):
        snippet(port, SERVERS, pools, agent_inter=inter)
