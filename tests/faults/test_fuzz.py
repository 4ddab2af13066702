"""Arbitrary titles, lines, files and requests: each is read as a naive twin reads it, or refused.

Each past finding stays here as an example.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent._scan import Selector
from agent.config import toml
from agent.config.toml import ConfigError
from agent.operate import override, state
from agent.operate.override import PersistedOverride
from agent.operate.state import NAME, StateFile
from agent.tools.haproxy.lint import lint
from agent.tools.haproxy.read import LintError
from tests import twin
from tests.faults import SOAK, amount
from tests.tree import Tree, TreeAgent

ROOT = Path(__file__).parents[2]
CORPUS = sorted((ROOT / "tests/tools/haproxy").rglob("*.cfg"))


def cases(short: int, long: int) -> settings:
    few = settings(max_examples=int(amount(short, long)), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    # CI tries the same cases every time; each soak shall look elsewhere.
    return settings(few, derandomize=False) if SOAK else few


# Titles.

WORDS = [
    b"sidekiq ", b"faktory-worker ", b"resque-", b"rq:worker:", b"postgres: ", b"[local]", b"10.0.0.5(51234)", b"(x)",
    b"7.3.0", b"1", b" ", b"  ", b": ", b":", b"[", b"]", b" of ", b" busy]", b"[3 of 10 busy]", b"[0 of 1 busy]",
    b"[999999 of 999999 busy]", b"[1000000 of 1 busy]", b"[3 of 1 busy]", b" stopping", b" quiet", b"stoppings",
    b"Waiting", b"Paused", b"Starting", b"Processing", b"Forked", b"Spawned", b"Listening", b"Idle", b"idle", b"SELECT",
    b"walsender", b"\0", b"\n", b"\xff", b"shop", b"000003", b"\xd9\xa3", b"(", b")",
    b" | busyweight [", b" | busyweight [2 of 5 busy]",
]  # fmt: skip
NAMES = [b"sidekiq 7.3.0 ", b"faktory-worker 1.1.1 ", b"resque-2.6.0: ", b"rq:worker:", b"rq: ", b"postgres: ", b""]
words = st.lists(st.sampled_from(WORDS) | st.binary(max_size=4), max_size=14).map(b"".join)
titles = st.builds(bytes.__add__, st.sampled_from(NAMES), words)

TWINS = {
    "sidekiq": twin.sidekiq,
    "faktory": twin.faktory,
    "resque": twin.resque,
    "rq": twin.rq,
    "postgres": twin.postgres,
    "busyweight": twin.busyweight,
}


@cases(1500, 30_000)
@example(b"sidekiq 7.0.0 [9 of 9 busy]] [0 of 5 busy]")
@example(b"sidekiq 7 [1 of 5 busy] [x busy]")
@example(b"sidekiq 7 [1 of 5 busy]stopping")
@example(b"resque-resque-2.6.0: Paused")
@example(b"postgres: a b ((x) idle")
@example(b"puma | busyweight [1 of 5 busy] | busyweight [6 of 5 busy] [0 of 5 busy]")
@given(titles)
def test_every_title_is_read_as_its_plain_twin_reads_it(title: bytes) -> None:
    read = {preset: Selector(preset).read(title) for preset in TWINS}
    assert read == {preset: naive(title) for preset, naive in TWINS.items()}


@pytest.mark.skipif(not SOAK, reason="make soak")
@pytest.mark.timeout(1200)
def test_ten_million_titles_are_read_by_rust_as_by_its_own_twin() -> None:
    command = ["cargo", "test", "--locked", "--test", "titles", "--", "--nocapture"]
    told = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"TITLES": "10000000"}, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "10000000 titles" in told.stdout


# What comes over the network, and over the control socket.

POOLS = """
[weight]
capacity = 4
[pools.mail]
capacity = 2
[pools.shop]
capacity = 8
[limits]
deadline = "3s"
"""
SAID = {b"mail": b"up 50% #1/2 busy\n", b"shop": b"up 88% #1/8 busy\n"}
DEFAULT = b"up 75% #1/4 busy\n"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TreeAgent]:
    home = tmp_path_factory.mktemp("fuzz")
    tree = Tree(home / "proc")
    tree.workers(busy=1)
    with TreeAgent(home, tree, POOLS) as agent:
        yield agent
        # An order that the fuzz gave may have ended just now.
        assert agent.ask(b"mail\n").removeprefix(b"ready ") == SAID[b"mail"]
    assert "Traceback" not in agent.log_text()


sent = st.lists(
    st.sampled_from([b"mail", b"shop", b"\n", b"\r\n", b" ", b"\t", b"m", b"\0", b"\xff"]) | st.binary(max_size=5),
    max_size=8,
).map(b"".join)


@cases(300, 5000)
@example(b"mail\rshop\n")
@example(b"mail")
@given(sent)
def test_every_line_sent_gets_the_pool_that_it_names_or_the_default_one(agent: TreeAgent, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", agent.port), timeout=10) as poll:
        poll.sendall(line)
        poll.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := poll.recv(100):
            answer += chunk
    name = line.replace(b"\r", b"\n").split(b"\n")[0].strip(b" \t\x0c")
    assert answer == SAID.get(name, DEFAULT)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
commands = st.sampled_from(["status", "drain", "maint", "ready", "weight", "workers", "config", "top", ""])
requests = st.fixed_dictionaries(
    {"command": commands | json_values},
    optional={"version": st.just(1) | json_values, "for": json_values, "reason": json_values, "weight": json_values},
)
control_lines = st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b" ")) | requests.map(
    lambda request: json.dumps(request).encode()
)
NESTED = b'{"version": ' + b"[" * 900 + b"]" * 900 + b', "command": "status"}'


@cases(300, 5000)
@example(NESTED)
@example(NESTED.replace(b'"version"', b'"for"').replace(b"status", b"drain"))
@example(b'{"command": "weight", "weight": 1e999}')
@example(b'{"command": "drain", "for": "\\ud800"}')
@example(b'{"command": "drain", "reason": "\\ud800"}')
@example(b'{"version": "\\u001b[2J\\u0007"}')
@example(b'{"command": "\\u001b[2J\\u0007"}')
@given(control_lines)
def test_every_control_line_gets_one_answer_that_blames_the_line_or_obeys(agent: TreeAgent, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(agent.control))
        client.sendall(line + b"\n" + b'{"command": "ready"}\n')
        with client.makefile("rb") as answers:
            first, last = json.loads(answers.readline()), json.loads(answers.readline())
    assert isinstance(first["ok"], bool)
    if not first["ok"]:
        assert first["error"].isprintable()
        assert "the agent failed" not in first["error"]
    assert last["ok"] or "nothing" in last["error"], last


# Files.


def survives(text: str, checks: Callable[[str], object]) -> None:
    try:
        checks(text)
    except ConfigError as error:
        assert error.faults
        assert all(fault.isprintable() for fault in error.faults)


keys = [
    "listen", "allow", "[workers]", "[workers.custom]", "[scan]", "[weight]", "[reply]", "[limits]", "[control]",
    "[log]", "[metrics]", "[pools.a]", "[[pools.a]]", "preset", "comm", "users", "cgroups", "pattern", "busy_states",
    "procfs", "discovery", "fresh_for", "min_gap", "max_duty", "wait_at_most", "give_up_after", "count", "capacity",
    "floor", "rise", "unknown", "health", "on_stop", "release_for", "group", "level", "format", "max_connections",
    "deadline", "backlog",
]  # fmt: skip
toml_values = st.sampled_from(
    ['"500ms"', '"5%"', '"off"', '"sidekiq"', '"custom"', "[]", "{}", "1", "-1", "1e999", "nan", "true", '"cores"',
     "1979-05-27", '["127.0.0.1:1"]', "'('", "'(?P<busy>.)(?P<total>.)'", "[[[]]]", '"\\u0000"', '""', "9" * 400]
)  # fmt: skip
toml_lines = st.builds(
    lambda key, value: key if key[0] == "[" else f"{key} = {value}", st.sampled_from(keys), toml_values
)
toml_texts = st.lists(toml_lines | st.text(max_size=10), max_size=8).map("\n".join)


@cases(400, 10_000)
@example("a = " + "[" * 5000)
@example("[" + "a." * 5000 + "a]")
@example("capacity = 1" + "0" * 5000)
@given(toml_texts)
def test_every_configuration_is_taken_or_refused_with_reasons(text: str) -> None:
    survives(text, lambda text: toml.parse(text, "here"))


records = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["drain", "maint", "weight", "alice", "", "\ud800", 1.8e9, 40])
    | st.text(max_size=5),
    lambda inner: (
        st.fixed_dictionaries(
            {
                "kind": inner,
                "weight": inner,
                "who": inner,
                "why": inner,
                "since": inner,
                "until": inner,
            }
        )
        | st.lists(inner, max_size=3)
    ),
    max_leaves=10,
)
state_texts = st.binary(max_size=80) | st.builds(
    lambda version, owed, record: json.dumps({"version": version, "ready_owed": owed, "override": record}).encode(),
    st.just(1) | json_values,
    st.booleans() | json_values,
    records,
)


@cases(300, 5000)
@example(b"[" * 60_000)
@example(b'{"version": 1, "ready_owed": true, "override": null}')
@example(b'{"version": 1' + b"0" * 5000 + b"}")
@given(state_texts)
def test_every_state_file_is_believed_whole_or_set_aside(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    directory = tmp_path_factory.mktemp("state")
    try:
        (directory / NAME).write_bytes(text)
        file = StateFile(directory)
        record = file.load()
        if file.load_warning is None:
            again = StateFile(directory)
            asyncio.run(again.save(record))
            assert again.write_error is None
            assert StateFile(directory).load() == record
            assert override.from_value(override.to_value(record)) == record
        else:
            assert record == PersistedOverride()
            assert not (directory / NAME).exists()
    finally:
        shutil.rmtree(directory)
    assert len(text) < state.SIZE_MAX


@st.composite
def mutilated(draw: st.DrawFn) -> str:
    """A real configuration with some lines lost, doubled, swapped, or cut in two."""
    lines = draw(st.sampled_from(CORPUS)).read_text().splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        cut = draw(st.integers(0, len(lines[at])))
        change = draw(st.sampled_from(["lose", "double", "swap", "cut", "insert"]))
        if change == "lose" and len(lines) > 1:
            del lines[at]
        elif change == "double":
            lines.insert(at, lines[at])
        elif change == "swap":
            lines[at], lines[0] = lines[0], lines[at]
        elif change == "cut":
            lines[at : at + 1] = [lines[at][:cut], lines[at][cut:]]
        else:
            noise = draw(st.text(st.sampled_from("\"'\\$#{}[] \t\rax0") | st.characters(codec="utf-8"), max_size=8))
            lines[at] = lines[at][:cut] + noise + lines[at][cut:]
    return "\n".join(lines)


@cases(150, 2500)
@example("backend b\n server s ::1:80 weight :9 agent-check agent-port 5001\n")
@example("backend b\n server s ::1:80 weight 9: agent-check agent-port 5001\n")
@given(mutilated())
def test_every_mutilated_haproxy_configuration_gives_findings_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutilated.cfg"
    path.write_text(text)
    try:
        findings = lint([path], {5001}, environment={})
    except LintError as error:
        assert str(error).isprintable()
    else:
        assert all(str(finding).isprintable() for finding in findings)
