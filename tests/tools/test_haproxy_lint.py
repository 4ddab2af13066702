"""The lint against a corpus of configurations.

What is to be found stands in the corpus itself, as a comment at the end of the line it belongs to:
`# finding: TOPIC, TOPIC  note: TOPIC`. A file of `sound/` has no findings.
"""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.tools.haproxy import Finding, LintError, lint

CORPUS = Path(__file__).parent / "haproxy"
SOUND = sorted((CORPUS / "sound").iterdir())
TRAPS = sorted((CORPUS / "traps").iterdir())
TOPICS = {
    "weight": " of weight ",
    "static": " is static",
    "all-at-zero": "lose all its servers",
    "agent-send": "without agent-send",
    "reload": "server state file",
    "first": "balance first",
}
Mark = tuple[str, int, str, str]


def expected(path: Path) -> set[Mark]:
    marks: set[Mark] = set()
    for file in sorted(path.glob("*.cfg")) if path.is_dir() else [path]:
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            for severity, topics in re.findall(r"(finding|note): ([a-z-]+(?:, [a-z-]+)*)", line):
                marks |= {(str(file), number, severity, topic) for topic in topics.split(", ")}
    return marks


def mark(finding: Finding) -> Mark:
    (topic,) = (topic for topic, words in TOPICS.items() if words in finding.what)
    return finding.file, finding.line, finding.severity, topic


def found(*paths: Path, **options: bool) -> set[Mark]:
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
def test_a_floor_above_zero_takes_away_only_the_loss_of_all_servers(path: Path) -> None:
    left = {m for m in expected(path) if m[3] != "all-at-zero"}
    assert found(path, floor_above_zero=True) == left


def test_several_files_are_one_configuration_in_the_order_given() -> None:
    parts = sorted((CORPUS / "traps" / "conf.d").glob("*.cfg"))
    assert found(*parts) == expected(CORPUS / "traps" / "conf.d")
    # Without the first one's defaults nobody asks an agent.
    assert found(*parts[1:]) == set()


def test_agents_on_other_ports_are_judged_only_on_demand() -> None:
    foreign = CORPUS / "sound" / "foreign.cfg"
    assert found(foreign) == set()
    topics = {m[3] for m in found(foreign, all_checks=True)}
    assert topics == {"weight", "static", "all-at-zero", "reload"}


def test_each_configured_port_is_ours(tmp_path: Path) -> None:
    path = write(tmp_path, "backend b\n server s 192.0.2.1:80 agent-check agent-port 7001\n")
    assert lint([path], {5001}, environment={}) == []
    assert lint([path], {5001, 7001}, environment={})


def test_a_port_that_hangs_on_an_unknown_variable_is_noted_and_not_judged(tmp_path: Path) -> None:
    path = write(tmp_path, 'backend b\n server s 192.0.2.1:80 agent-check agent-port "$AGENT"\n')
    (note,) = lint([path], {5001}, environment={})
    assert note.severity == "note"
    assert "${AGENT}" in note.what
    assert {f.severity for f in lint([path], {5001}, environment={"AGENT": "5001"})} == {"finding", "note"}
    assert lint([path], {5001}, environment={"AGENT": "9"}) == []


def test_a_weight_that_hangs_on_an_unknown_variable_is_not_judged(tmp_path: Path) -> None:
    server = 'server s 192.0.2.1:80 agent-check agent-port 5001 weight "$W"'
    path = write(tmp_path, f"backend b\n {server}\n server t ::1:1\n")
    assert {m[3] for m in found(path)} == {"reload"}


def test_a_finding_reads_file_line_what_why_remedy(tmp_path: Path) -> None:
    server = "server s ::1:80 agent-check agent-port 5001 weight 100"
    path = write(tmp_path, f"backend b\n balance source\n {server}\n")
    texts = {f.severity: str(f) for f in lint([path], {5001}, environment={}, floor_above_zero=True)}
    assert texts["finding"] == (
        f"{path}:2: balance source in backend b is static, it takes no weights but 0% and 100%, so a host "
        "once full stays out until it is idle, use roundrobin, leastconn or random, or `hash-type consistent`"
    )
    assert texts["note"].startswith(f"{path}:1: note: ")


def test_the_remedy_takes_the_place_of_a_rule_that_refuses() -> None:
    remedies = [f.remedy for f in lint([CORPUS / "traps/zero_refused.cfg"], {5001}) if f.severity == "finding"]
    lines = [re.findall(r"in place of [^`]+cfg:(\d+), `use_backend", remedy) for remedy in remedies]
    assert lines == [["15"], ["21"], ["35"], ["42"], ["48"], ["54"]]


def test_a_default_server_at_fault_is_one_finding_however_many_servers_it_serves(tmp_path: Path) -> None:
    servers = "".join(f" server s{i} 192.0.2.1:{i}\n" for i in range(1, 60))
    path = write(tmp_path, f"backend b\n default-server weight 9 agent-check agent-port 5001\n{servers}")
    (finding,) = (f for f in lint([path], {5001}, environment={}) if " of weight " in f.what)
    assert finding.line == 2
    assert "servers s1, s2, s3 and 56 more" in finding.what


def test_what_a_file_calls_its_servers_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path, "backend b\n server \x1b[2Js ::1:80 agent-check agent-port 5001\n")
    assert all(str(f).isprintable() for f in lint([path], {5001}, environment={}))


BAD = {
    "prose": ("Dear all,\nthe balancer is down.\n", "line 1: 'Dear' before any section"),
    "nginx": ("user www-data;\n", "not an HAProxy configuration"),
    "toml": ('listen = ["127.0.0.1:5001"]\n[workers]\n', "listen wants a name"),
    "empty": ("", "no section in it"),
    "comments": ("# one\n\n# two\n", "no section in it"),
    "binary": (b"\x7fELF\0\1", "binary"),
    "quote": ("global\n description 'oops\n", "line 2: unmatched ' quote"),
    "double": ('global\n description "oops\n', 'line 2: unmatched " quote'),
    "brace": ('global\n description "${oops"\n', "line 2: unmatched brace"),
    "dollar": ('global\n description "5 $"\n', "line 2: $ without the name"),
    "hex": ("global\n description \\xZZ\n", "line 2: \\x wants two"),
    "if": (".if 1\nglobal\n", "line 1: .if without .endif"),
    "endif": ("global\n.endif\n", "line 2: .endif without .if"),
    "nameless": ("backend\n", "line 1: backend wants a name"),
}


@pytest.mark.parametrize(("text", "why"), BAD.values(), ids=BAD)
def test_what_is_no_configuration_is_refused_by_path_and_reason(tmp_path: Path, text: str | bytes, why: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(LintError) as error:
        lint([path], {5001}, environment={})
    assert str(error.value).startswith(f"{path}: ")
    assert why in str(error.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LintError, match="No such file"):
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


def lint_text(text: str) -> list[Finding]:
    """The lint of a text, by way of a file that is in memory only."""
    fd = os.memfd_create("haproxy.cfg")
    try:
        os.write(fd, text.encode(errors="replace"))
        os.lseek(fd, 0, os.SEEK_SET)
        return lint([Path(f"/proc/self/fd/{fd}")], {5001}, environment={})
    finally:
        os.close(fd)
