"""A configuration is read as a whole or refused with every error; printing and parsing give the same configuration."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import schema, toml
from agent.config.advice import warnings
from agent.config.schema import Config, Pool, Scan, Weight, Workers
from agent.config.toml import Checks, ConfigError
from agent.sampling import host

WHERE = "busyweight.toml"


def parse(text: str) -> Config:
    return toml.parse(text, WHERE, host.CHECKS)


def faults(text: str, checks: Checks = host.CHECKS) -> list[str]:
    """The errors without the file's name, which each must begin with; one line each."""
    with pytest.raises(ConfigError) as error:
        toml.parse(text, WHERE, checks)
    assert all(fault.startswith(f"{WHERE}: ") and "\n" not in fault for fault in error.value.faults)
    return [fault.removeprefix(f"{WHERE}: ") for fault in error.value.faults]


EVERYTHING = r"""
listen = ["127.0.0.1:5001", "[::1]:5001"]
allow = ["10.0.0.0/8", "2001:db8::/32"]

[workers]
preset = "custom"
comm = ["my*", "caf\u00e9"]
users = ["root", 1000]
cgroups = ["/jobs.slice"]

[workers.custom]
pattern = '^job\x20(?P<state>\w+)'
busy_states = ["run", "\u007f\t"]

[scan]
procfs = "/srv/proc"
discovery = "sweep"
fresh_for = "1.5s"
min_gap = "0ms"
max_duty = "0.5%"
wait_at_most = "20ms"
give_up_after = "1m"

[weight]
count = "threads"
capacity = "slots"
floor = "5%"
rise = "2.5%/s"
unknown = "50%"

[reply]
health = "none"
on_stop = "keep"
release_for = "10s"

[limits]
max_connections = 10
deadline = "250ms"
backlog = 64

[control]
group = "root"

[log]
level = "debug"
format = "json"

[metrics]
listen = "127.0.0.1:9105"

[pools.mail]
preset = "sidekiq"
capacity = 2.5

[pools."a.b"]
count = "processes"
capacity = 12
"""


def test_nothing_configured_is_the_defaults() -> None:
    assert parse("") == Config()


def test_the_defaults_are_what_operators_rely_on() -> None:
    shown = tomllib.loads(toml.to_toml(Config()))
    assert shown == {
        "listen": ["127.0.0.1:5001"],
        "allow": [],
        "workers": {"preset": "sidekiq", "comm": [], "users": [], "cgroups": [], "now": "cpu"},
        "scan": {
            "procfs": "/proc",
            "pid_namespace": "host",
            "discovery": "auto",
            "fresh_for": "125ms",
            "min_gap": "100ms",
            "max_duty": "5%",
            "wait_at_most": "50ms",
            "give_up_after": "30s",
        },
        "weight": {
            "count": "processes",
            "capacity": "cores",
            "others": [],
            "floor": "0%",
            "rise": "off",
            "unknown": "hold",
        },
        "reply": {"health": "up", "on_stop": "release", "release_for": "5s"},
        "limits": {"max_connections": 256, "deadline": "1s", "backlog": 4096},
        "control": {"group": ""},
        "log": {"level": "info", "format": "text"},
        "metrics": {"listen": ""},
    }


def test_every_key_there_is_can_be_set_and_is_shown_as_it_is_read() -> None:
    everything = parse(EVERYTHING)
    assert toml.parse(toml.to_toml(everything), WHERE) == everything
    shown = tomllib.loads(toml.to_toml(everything))
    for table, kinds in schema.KINDS.items():
        found = shown
        for name in filter(None, table.split(".")):
            found = found[name]
        assert kinds.keys() <= found.keys(), table
    default = tomllib.loads(toml.to_toml(Config()))
    same = {key for table in default for key in [table] if default[table] == shown[table]}
    assert same == set(), "these tables of the test say nothing but defaults"


printable = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@given(st.lists(printable, max_size=3), printable, st.floats(1e-9, 1e6), st.floats(0, 1e6).map(lambda x: round(x, 6)))
def test_any_text_and_number_is_shown_so_that_it_is_read_back(
    comm: list[str], procfs: str, capacity: float, fresh_for: float
) -> None:
    made = Config(
        workers=Workers(comm=tuple(comm)),
        weight=Weight(capacity=capacity),
        scan=Scan(procfs=procfs, fresh_for=fresh_for),
        pools=(Pool("x.y#z", Workers(comm=tuple(comm)), Weight(capacity=capacity)),),
    )
    assert toml.parse(toml.to_toml(made), WHERE) == made


def test_every_fault_is_reported_at_once_with_key_finding_and_remedy() -> None:
    text = """
listen = ["localhost:5001"]
bind = "x"
[scan]
fresh_for = 5
min_gap = "soon"
speed = "high"
[workers]
preset = "sidekick"
users = ["no-such-user-here"]
[weight]
capacity = "slots"
[reply]
health = "down"
[control]
group = "no-such-group-here"
[extra]
x = 1
[pools.mail]
count = "jobs"
"""
    found = faults(text)
    assert {fault.partition(": ")[0] for fault in found} == {
        "bind", "extra", "listen", "scan.fresh_for", "scan.min_gap", "scan.speed", "workers.preset", "reply.health",
        "pools.mail.count", "weight.capacity", "workers.users", "control.group",
    }  # fmt: skip
    assert len(found) == 12
    by_key = dict(fault.split(": ", 1) for fault in found)
    assert by_key["listen"].startswith('found ["localhost:5001"]; allowed: item 1')
    assert by_key["scan.fresh_for"].startswith("found 5; allowed: a duration such as")
    assert by_key["scan.speed"].startswith("unknown key; allowed here: procfs, pid_namespace, discovery,")
    assert by_key["extra"].startswith("unknown key; allowed here: listen, allow, [workers],")
    assert by_key["workers.preset"].startswith('found "sidekick"; allowed: "sidekiq" | "faktory"')
    assert by_key["workers.users"] == 'found "no-such-user-here"; no such user on this host'
    assert by_key["weight.capacity"] == 'found "slots"; allowed only with count = "threads"'


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("listen = []", "listen"),
        ("listen = '127.0.0.1:5001'", "listen"),
        ("listen = ['127.0.0.1:1', '127.0.0.1:1']", "listen"),
        ("allow = ['10.0.0.0/99']", "allow"),
        ("allow = ['fe80::1%eth0']", "allow"),
        ("workers = 3", "workers"),
        ("[workers]\ncustom = 3", "workers.custom"),
        ('"workers.custom" = 1', "workers.custom"),
        ("pools = []", "pools"),
        ("[pools]\nx = 1", "pools.x"),
        ('[pools."a b"]', "pools.a b"),
        ('[pools.""]', "pools."),
        ("[pools.x]\nfresh_for = '1s'", "pools.x.fresh_for"),
        ("[pools.x.custom]\npattern = 'x'", "pools.x.custom"),
        ("[workers]\npreset = 'custom'", "workers.custom.pattern"),
        ("[workers.custom]\npattern = 'x'", "workers.preset"),
        ("[workers]\npreset = 'custom'\n[workers.custom]\npattern = '('", "workers.custom.pattern"),
        ("[workers]\npreset = 'custom'\n[workers.custom]\npattern = '(?P<n>.)(?P<n>.)'", "workers.custom.pattern"),
        ("[pools.x]\npreset = 'custom'\npattern = '('", "pools.x.pattern"),
        ("[workers]\ncomm = ['[]']", "workers.comm"),
        ("[workers]\ncomm = ['a-name-longer-than-any']", "workers.comm"),
        ("[pools.x]\ncomm = ['[a']", "pools.x.comm"),
        ("[pools.x]\ncapacity = 'slots'", "pools.x.capacity"),
        ("[pools.x]\nusers = ['no-such-user-here']", "pools.x.users"),
        ("[workers]\nusers = [4294967295]", "workers.users"),
        ("[limits]\nmax_connections = 0", "limits.max_connections"),
        ("[scan]\nmax_duty = '0%'", "scan.max_duty"),
        ("[weight]\nfloor = '101%'", "weight.floor"),
        ("x = 2020-01-01", "x"),
    ],
)
def test_one_fault_is_one_line_that_names_the_key(text: str, key: str) -> None:
    [fault] = faults(text)
    assert fault.startswith(f"{key}: ")


@pytest.mark.parametrize(
    "text",
    [
        "[workers]\npreset = 'custum'\n[workers.custom]\npattern = 'x'",
        "[weight]\ncount = 'thread'\ncapacity = 'slots'",
        "[workers]\ncomm = ['[]']\n[pools.a]\n[pools.b]\ncapacity = 3",
        "[weight]\ncapacity = 'slots'\n[pools.a]\n[pools.b]\npreset = 'rq'",
    ],
)
def test_one_mistake_is_one_fault_however_much_follows_from_it(text: str) -> None:
    assert len(faults(text)) == 1


@pytest.mark.parametrize("text", ["x =", "[a]\n[a]", "x = 1\nx = 2", "\0", "x = '" + "\x01'", "[" * 10_000])
def test_what_is_not_toml_is_one_fault(text: str) -> None:
    assert [fault.startswith("not TOML: ") for fault in faults(text)] == [True]


@pytest.mark.parametrize(
    ("program", "interface"),
    [("puma", "pumactl"), ("celery", "celery inspect active"), ("good_job", "dashboard"), ("GoodJob", "dashboard"),
     ("php-fpm", "pm.status_path"), ("solid-queue", "Mission Control"), ("PHP_FPM", "pm.status_path"),
     ("GoodJob", '"busyweight"'), ("solid_queue", '"busyweight"'), ("delayed_job", '"busyweight"')],
)  # fmt: skip
def test_a_program_whose_titles_say_nothing_is_refused_with_its_own_interface(program: str, interface: str) -> None:
    [fault] = faults(f'[workers]\npreset = "{program}"')
    assert interface in fault


def test_a_pool_is_as_the_default_one_but_for_what_it_says() -> None:
    text = """
[workers]
users = ["root"]
cgroups = ["/jobs.slice"]
comm = ["ruby*"]
[weight]
count = "threads"
capacity = 40
floor = "5%"
[pools.mail]
capacity = 10
users = []
"""
    default, mail = parse(text).all_pools
    assert mail.workers == Workers(comm=("ruby*",), cgroups=("/jobs.slice",))
    assert mail.weight == Weight("threads", 10, floor=5)
    assert default == Pool("", Workers(comm=("ruby*",), users=("root",), cgroups=("/jobs.slice",)), parse(text).weight)


def test_a_pool_with_its_own_preset() -> None:
    """It uses that preset's process names, and inherits no pattern."""
    text = """
[workers]
preset = "custom"
comm = ["my*"]
users = ["root"]
[workers.custom]
pattern = '(?P<busy>\\d)(?P<total>\\d)'
[pools.same]
[pools.other]
preset = "rq"
[pools.named]
preset = "rq"
comm = ["python3*"]
"""
    _, same, other, named = parse(text).all_pools
    assert same.workers.pattern and same.workers.comm == ("my*",)
    assert other.workers == Workers("rq", users=("root",))
    assert named.workers.comm == ("python3*",)


def test_more_pools_than_one_scan_can_tell_apart_are_refused() -> None:
    pools = [f"[pools.p{n}]" for n in range(schema.MAX_POOLS + 1)]
    assert len(parse("\n".join(pools[:-1])).all_pools) == schema.MAX_POOLS + 1
    assert [fault.partition(":")[0] for fault in faults("\n".join(pools))] == ["pools"]


WARNED = {
    "[scan]\ngive_up_after = '500ms'": "unknown",
    "[scan]\ngive_up_after = '1s'": "unknown",
    "[scan]\nfresh_for = '50ms'": "older than fresh_for",
    "[scan]\nfresh_for = '0ms'": "older than fresh_for",
    "[scan]\nwait_at_most = '1s'": "too late",
    "[scan]\nfresh_for = '0ms'\nmin_gap = '0ms'\nwait_at_most = '0ms'": "based on the previous scan",
    "[reply]\nrelease_for = '0ms'": "not released",
}


@pytest.mark.parametrize("text", WARNED)
def test_settings_that_make_answers_unknown_or_late_are_warned_of(text: str) -> None:
    assert any(WARNED[text] in warning for warning in warnings(parse(text)))


def test_the_defaults_and_the_strictest_settings_are_not_warned_of() -> None:
    for text in ("", "[scan]\nfresh_for = '0ms'\nmin_gap = '0ms'\nmax_duty = '100%'"):
        assert list(warnings(parse(text))) == []
