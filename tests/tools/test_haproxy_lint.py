"""The lint against a corpus of configurations.

The corpus itself has the expected findings, as a comment at the end of the line they belong to: `# finding: TOPIC,
TOPIC note: TOPIC`. A file in `sound/` has no findings.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.tools.haproxy import LintError, LintFinding, lint

CORPUS = Path(__file__).parent / "haproxy"
SOUND = sorted((CORPUS / "sound").iterdir())
TRAPS = sorted((CORPUS / "traps").iterdir())
TOPICS = {
    "weight": r" weight \d+( by default)?$",
    "static": " is static$",
    "all-at-zero": "lose all its servers",
    "agent-send": " without agent-send",
    "reload": "server state file",
    "first": "fills servers in order",
    "spill": " has no spill| never starts$",
    "queue": "does not see its queue",
    "always": "^All requests for ",
    "loop": "loops back to where it started",
    "target": " leads to ",
    "backup": " all requests once every host is full",
    "some": " no agent-check, beside ",
    "single": " is the only one in ",
    "affinity": " moves clients to other hosts ",
    "persistence": " return to their host ",
    "slowstart": " slowstart$",
    "nodes": " units of weight$",
    "dns": " from DNS and from the agent$",
    "init-state": " init-state and track$",
    "port": "variable is not set here$",
    "no-check": " agent-port but no agent-check$",
    "seldom": r" agent-inter \S+$",
    "one-agent": " poll one agent, ",
    "line": " has no newline at its end$",
    "nobody": "^No server polls an agent on port ",
    "no-pool": ", which is not a pool$",
    "no-send": " no agent-send, but the agent has pools$",
}
Mark = tuple[str, int, str, str]


def expected(path: Path) -> set[Mark]:
    marks: set[Mark] = set()
    for file in sorted(path.glob("*.cfg")) if path.is_dir() else [path]:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            for severity, topics in re.findall(r"(finding|note): ([a-z-]+(?:, [a-z-]+)*)", line):
                marks |= {(str(file), number, severity, topic) for topic in topics.split(", ")}
    return marks


def mark(finding: LintFinding) -> Mark:
    (topic,) = (topic for topic, pattern in TOPICS.items() if re.search(pattern, finding.what))
    return finding.file, finding.line, finding.severity, topic


def found(*paths: Path, **options: Any) -> set[Mark]:
    return {mark(finding) for finding in lint(paths, {5001}, environment={}, **options)}


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "haproxy.cfg"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("path", SOUND, ids=lambda p: p.name)
def test_a_sound_configuration_has_no_findings(path: Path) -> None:
    marks = expected(path)
    assert not any(severity == "finding" for _, _, severity, _ in marks)
    assert found(path) == marks


@pytest.mark.parametrize("path", TRAPS, ids=lambda p: p.name)
def test_each_trap_is_found_on_its_line_and_nothing_else(path: Path) -> None:
    assert expected(path), "a trap without a mark proves nothing"
    assert found(path) == expected(path)


@pytest.mark.parametrize("path", TRAPS, ids=lambda p: p.name)
def test_a_floor_above_zero(path: Path) -> None:
    """With it the loss of all servers is no finding any more; a missing spill still is one."""
    lost = {m for m in expected(path) if m[3] in ("all-at-zero", "backup")}
    left = expected(path) - lost
    more = found(path, floor_above_zero=True) - left
    assert left <= found(path, floor_above_zero=True)
    # A pool of one host has nowhere to spill to.
    assert {(m[2], m[3]) for m in more} <= {("note", "spill")}
    assert len(more) <= len(lost)


def test_a_pool_of_two_hosts_on_a_floor_still_wants_a_spill() -> None:
    assert ("note", "spill") in {m[2:] for m in found(CORPUS / "traps/zero_no_fallback.cfg", floor_above_zero=True)}


def test_several_files_are_one_configuration_in_the_order_given() -> None:
    parts = sorted((CORPUS / "traps" / "conf.d").glob("*.cfg"))
    assert found(*parts) == expected(CORPUS / "traps" / "conf.d")
    # Without the first one's defaults nobody asks an agent.
    assert {m[2:] for m in found(*parts[1:])} == {("note", "nobody")}


def test_agents_on_other_ports_are_judged_only_on_demand() -> None:
    foreign = CORPUS / "sound" / "foreign.cfg"
    assert {m[3] for m in found(foreign)} == {"nobody"}
    topics = {m[3] for m in found(foreign, all_checks=True)}
    assert topics == {"weight", "static", "all-at-zero", "reload"}


def test_each_configured_port_is_ours(tmp_path: Path) -> None:
    path = write(tmp_path, "backend b\n server s 192.0.2.1:80 agent-check agent-port 7001\n")
    (note,) = lint([path], {5001}, environment={})
    assert "port 5001, but s polls one on 7001" in note.what
    assert "nobody" not in {mark(finding)[3] for finding in lint([path], {5001, 7001}, environment={})}


def test_where_nobody_asks_an_agent_the_first_backend_is_told_so(tmp_path: Path) -> None:
    assert found(write(tmp_path, "global\ndefaults\n mode http\n")) == set()
    path = write(tmp_path, "frontend f\nbackend b\n server s 192.0.2.1:80\n")
    assert found(path) == {(str(path), 2, "note", "nobody")}
    # In one of the two ways in which it may be read somebody does.
    path = write(tmp_path, f"{path.read_text()}.if feature(X)\n server t ::1:1 agent-check agent-port 5001\n.endif\n")
    assert "nobody" not in {m[3] for m in found(path)}


def test_what_is_sent_is_judged_by_the_agents_pools_where_they_are_known(tmp_path: Path) -> None:
    def topics(send: str, *pools: str) -> set[tuple[str, str]]:
        server = f"server s 192.0.2.1:80 weight 100 agent-check agent-port 5001 {send}"
        text = write(tmp_path, f"backend b\n {server}\n")
        return {m[2:] for m in found(text, pools=pools)} & {
            (severity, topic) for severity in ("note", "finding") for topic in ("line", "no-pool", "no-send")
        }

    assert topics('agent-send "mail\\n"') == topics('agent-send "mail\\n"', "mail", "web") == topics("") == set()
    assert topics('agent-send "$POOL\\n"', "mail") == set()
    assert topics("agent-send mail") == {("note", "line")}
    assert topics("agent-send mail", "mail") == {("finding", "line")}
    assert topics('agent-send "post\\n"', "mail") == {("finding", "no-pool")}
    assert topics("", "mail") == {("finding", "no-send")}


def test_a_port_that_hangs_on_an_unknown_variable_is_noted_and_not_judged(tmp_path: Path) -> None:
    path = write(tmp_path, 'backend b\n server s 192.0.2.1:80 agent-check agent-port "$AGENT"\n')
    (note,) = lint([path], {5001}, environment={})
    assert note.severity == "note"
    assert "${AGENT}" in note.what
    assert {f.severity for f in lint([path], {5001}, environment={"AGENT": "5001"})} == {"finding", "note"}
    assert {m[3] for m in map(mark, lint([path], {5001}, environment={"AGENT": "9"}))} == {"nobody"}


def test_a_weight_that_hangs_on_an_unknown_variable_is_not_judged(tmp_path: Path) -> None:
    server = 'server s 192.0.2.1:80 agent-check agent-port 5001 weight "$W"'
    path = write(tmp_path, f"backend b\n {server}\n server t ::1:1\n")
    assert {m[3] for m in found(path)} == {"reload", "some"}


def test_a_finding_reads_file_line_what_why_remedy(tmp_path: Path) -> None:
    server = "server s ::1:80 agent-check agent-port 5001 weight 100"
    path = write(tmp_path, f"backend b\n balance source\n {server}\n")
    texts = [str(finding) for finding in lint([path], {5001}, environment={}, floor_above_zero=True)]
    assert texts[1] == (
        f"{path}:2: `balance source` in backend b is static. It supports only the weights 0% and 100%, so a host that "
        "was full stays out of the pool until it is idle. Use roundrobin or leastconn, or `hash-type consistent`."
    )
    assert texts[0].startswith(f"{path}:1: note: No server state file for backend b. ")


@pytest.mark.parametrize("path", [*SOUND, *TRAPS], ids=lambda p: p.name)
def test_every_finding_is_three_sentences(path: Path) -> None:
    options: dict[str, Any] = {"bare_replies": True, "version": (3, 4, 0)}
    for finding in lint([path], {5001}, environment={}, all_checks=True, **options):
        for sentence in (finding.what, finding.why, finding.remedy):
            assert re.match(r"[A-Z`]|be_conn_free is", sentence), sentence
            assert sentence[-1] not in ".,", sentence
        # Remedies are what to do.
        assert re.match(r"(Write|Use|Give|Add|Keep|Save|Set|Remove|Run|End|Compare|List|If)\b", finding.remedy), (
            finding.remedy
        )


def test_the_remedy_takes_the_place_of_a_rule_that_refuses() -> None:
    remedies = [f.remedy for f in lint([CORPUS / "traps/zero_refused.cfg"], {5001}) if f.severity == "finding"]
    lines = [re.findall(r"^Write `use_backend .* instead of [^`]+cfg:(\d+), ", remedy) for remedy in remedies]
    assert lines == [["15"], ["21"], ["35"], ["42"], ["48"], ["54"]]


def test_a_default_server_at_fault_is_one_finding_however_many_servers_it_serves(tmp_path: Path) -> None:
    servers = "".join(f" server s{i} 192.0.2.1:{i}\n" for i in range(1, 60))
    path = write(tmp_path, f"backend b\n default-server weight 9 agent-check agent-port 5001\n{servers}")
    (finding,) = (f for f in lint([path], {5001}, environment={}) if " weight 9" in f.what)
    assert finding.line == 2
    assert "Servers s1, s2, s3 and 56 more" in finding.what


def test_what_a_file_calls_its_servers_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path, "backend b\n server \x1b[2Js ::1:80 agent-check agent-port 5001\n")
    assert all(str(f).isprintable() for f in lint([path], {5001}, environment={}))


BAD = {
    "prose": ("Dear all,\nthe balancer is down.\n", "line 1: 'Dear' before any section"),
    "nginx": ("user www-data;\n", "so this is not an HAProxy configuration"),
    "toml": ('listen = ["127.0.0.1:5001"]\n[workers]\n', "listen needs a name"),
    "empty": ("", "has no section"),
    "comments": ("# one\n\n# two\n", "has no section"),
    "binary": (b"\x7fELF\0\1", "binary"),
    "quote": ("global\n description 'oops\n", "line 2: unmatched ' quote"),
    "double": ('global\n description "oops\n', 'line 2: unmatched " quote'),
    "brace": ('global\n description "${oops"\n', "line 2: unmatched brace"),
    "dollar": ('global\n description "5 $"\n', "line 2: $ without a variable name"),
    "hex": ("global\n description \\xZZ\n", "line 2: \\x needs two"),
    "if": (".if 1\nglobal\n", "line 1: .if without .endif"),
    "endif": ("global\n.endif\n", "line 2: .endif without .if"),
    "nameless": ("backend\n", "line 1: backend needs a name"),
    "jinja": ("backend b\n server s {{ host }}:80\n", "line 2: {{ host }} belongs to a template"),
    "jinja block": (
        "{% for s in servers %}\nbackend b\n{% endfor %}\n",
        "line 1: {% for s in servers %} belongs to a template",
    ),
    "go": ("backend b\n{{range service `web`}}\n", "line 2: {{range service `web`}} belongs to a template"),
    "quotes": ('backend b\n server s {{ env "HOST" }}:80\n', 'line 2: {{ env "HOST" }} belongs to a template'),
    "freemarker": ("backend b\n<#list hosts as host>\n", "line 2: <#list hosts as host> belongs to a template"),
    "erb": ("backend b\n <% servers.each do |s| %>\n", "line 2: <% servers.each do |s| %> belongs to a template"),
    "erb value": ("global\n maxconn <%= @max %>\n", "line 2: <%= @max %> belongs to a template"),
}


@pytest.mark.parametrize(("text", "why"), BAD.values(), ids=BAD)
def test_what_is_no_configuration_is_refused_by_path_and_reason(tmp_path: Path, text: str | bytes, why: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(LintError) as error:
        lint([path], {5001}, environment={})
    assert str(error.value).startswith(f"{path}: ")
    assert why in str(error.value)


@pytest.mark.parametrize("line", ["# rendered from {{ this }}", 'log-format \'{{"a":"%b"}}\'', "log-format %{+Q}o"])
def test_what_only_looks_like_a_template_is_read(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, f"frontend f\n  {line}\nbackend b\n server s ::1:80 agent-check agent-port 5001\n")
    assert {m[3] for m in found(path)} >= {"weight"}


def test_health_none_with_health_checks() -> None:
    """A finding for the HAProxy versions with the bug, nothing for others, a note if the version is unknown."""
    path = CORPUS / "sound/spill.cfg"

    def said(**options: Any) -> set[str]:
        findings = lint([path], {5001}, environment={}, **options)
        return {finding.severity for finding in findings if "health checks" in finding.what}

    assert said(bare_replies=True) == {"note"}
    for version in ((3, 3), (3, 3, 0), (3, 3, 12), (3, 4, 0)):
        assert said(bare_replies=True, version=version) == {"finding"}
        assert said(version=version) == set()
    for version in ((2, 6, 12), (3, 2, 9), (3, 4, 1), (3, 5)):
        assert said(bare_replies=True, version=version) == set()


@pytest.mark.parametrize(
    ("bind", "server", "loops"),
    [
        (":80", "127.0.0.1:80", True),
        ("*:80,:81", "[::1]:81", True),
        ("192.0.2.1:80", "192.0.2.1:80", True),
        ("unix@/run/web.sock", "/run/web.sock", True),
        ("abns@web", "abns@web", True),
        (":80", "127.0.0.1:8080", False),
        (":80", "192.0.2.1:80", False),
        ("192.0.2.1:80", "127.0.0.1:80", False),
    ],
)
@pytest.mark.parametrize("listen", [False, True])
def test_a_spill_loops_if_its_servers_are_where_a_frontend_of_the_pool_listens(
    tmp_path: Path, bind: str, server: str, loops: bool, listen: bool
) -> None:
    rule = "use_backend rest if { be_conn_free(web) eq 0 }"
    pool = "server a 192.0.2.1:8080 agent-check agent-port 5001 maxconn 9 weight 100\n"
    front = f"listen web\n bind {bind}\n {rule}\n {pool}"
    if not listen:
        front = f"frontend f\n bind {bind}\n {rule}\n default_backend web\nbackend web\n {pool}"
    path = write(tmp_path, f"{front}backend rest\n server r {server}\n")
    assert ("loop" in {m[3] for m in found(path)}) == loops


def test_what_a_version_makes_fatal_or_its_default_counts_with_that_version(tmp_path: Path) -> None:
    path = CORPUS / "sound/init_state.cfg"
    assert {m[2] for m in found(path, version=(3, 1)) if m[3] == "init-state"} == {"note"}
    assert {m[2] for m in found(path, version=(3, 2)) if m[3] == "init-state"} == {"finding"}
    # From 3.3 on a backend without `balance` chooses at random.
    assert "queue" not in {m[3] for m in found(CORPUS / "sound/spill.cfg")}
    assert "queue" in {m[3] for m in found(CORPUS / "sound/spill.cfg", version=(3, 3))}


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LintError, match="cannot be read: no such file"):
        lint([tmp_path / "none.cfg"], {5001})


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    # A loop of links cannot be read by root either.
    path = tmp_path / "haproxy.cfg"
    path.symlink_to(path)
    with pytest.raises(LintError, match="symbolic links"):
        lint([path], {5001})


def test_a_directory_without_configuration_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "haproxy.conf").write_text("global\n")
    with pytest.raises(LintError, match="without"):
        lint([tmp_path], {5001})


@given(st.text(st.sampled_from("\"'\\$# {}[]!-\n\t\r\x00ax|0") | st.characters(), max_size=200))
def test_any_text_gives_findings_or_a_refusal(text: str) -> None:
    line = f"backend b\n server s ::1:80 agent-check agent-port 5001 {text}\n use_backend c if {text}\n"
    line += f" use_backend c if {{ nbsrv(b) {text} }}\n"
    for content in (text, line):
        try:
            readings = lint_text(content)
        except LintError as error:
            assert str(error).isprintable()
        else:
            assert all(str(finding).isprintable() for finding in readings)


def lint_text(text: str) -> list[LintFinding]:
    """Lints a text, as a file that exists only in memory."""
    fd = os.memfd_create("haproxy.cfg")
    try:
        os.write(fd, text.encode(errors="replace"))
        os.lseek(fd, 0, os.SEEK_SET)
        return lint([Path(f"/proc/self/fd/{fd}")], {5001}, environment={})
    finally:
        os.close(fd)
