"""haproxy.cfg files -> lines of words, split as HAProxy splits them.

It knows files, quotes, variables and `.if`, but not what the words mean. It reads the files it is given and must
never change a file, run HAProxy, or guess: what it cannot know (a variable that is not set here, a condition on
HAProxy's version) stays visible to the caller as unknown.

Rules from HAProxy's configuration.txt, "Quoting and escaping", "Environment variables" and "Conditional
blocks", and its src/tools.c:parse_line. There is no line continuation.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.config.words import os_error, printable

SECTIONS = frozenset(
    "global defaults frontend backend listen peers resolvers "  # noqa: SIM905 (a list has one word a line)
    "mailers userlist cache program http-errors ring log-forward log-profile fcgi-app namespace_list "
    "traces crt-store acme healthcheck".split()
)
_BLANKS = " \t\v\f"
_TOKEN = re.compile(
    r"(?P<blank>[ \t\v\f]+)|(?P<end>[#\r])|'(?P<single>[^'\r]*)'|(?P<double>\")|(?P<escape>\\)"
    r"|(?P<plain>[^ \t\v\f\r#'\"\\]+)"
)
_VARIABLE = re.compile(r"\$(?P<brace>\{)?(?P<name>\.?[A-Za-z_][A-Za-z0-9_]*)")
_BRACED_REST = re.compile(r"(?P<words>\[\*\])?(?:-(?P<default>[^}]*))?\}")
# Unrendered templates: Jinja, Go and Consul's own, ERB, FreeMarker. JSON has a quote there.
_TEMPLATE = re.compile(r"\{\{-?\s*[^{}\s\"'][^{}]*\}\}|\{%.*?%\}|<%.*?%>|</?#[a-z]+\b.*?>")
_HEX = re.compile(r"[0-9A-Fa-f]{2}")
_CONTROL = {"n": "\n", "r": "\r", "t": "\t"}


class LintError(Exception):
    """A path that cannot be checked: missing, unreadable, or not an HAProxy configuration."""

    def __init__(self, path: str | Path, why: str) -> None:
        super().__init__(path, why)
        self.path = str(path)
        self.why = why

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.why}")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something is written: the file as given, and the line number from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line that HAProxy would act upon. A variable unknown here is left in its word as `${NAME}`."""

    at: Place
    words: tuple[str, ...]


@dataclass(slots=True)
class World:
    """What determines the result besides the text.

    `variables` may change while lines are read, as with `setenv`. `assumed` maps the text of conditions that are
    unknown here to their assumed truth; one that is not in it is assumed to be true and added.
    """

    variables: dict[str, str]
    assumed: dict[str, bool] = field(default_factory=dict)


def is_known(word: str) -> bool:
    """False if the word contains a variable that is not set here."""
    return "${" not in word


def configuration_files(paths: Sequence[Path]) -> list[Path]:
    """Files in the order HAProxy loads them for `-f`: a directory stands for its *.cfg in lexical order."""
    files: list[Path] = []
    for path in paths:
        try:
            if not path.is_dir():
                files.append(path)
                continue
            # As HAProxy does: no dot files, only regular files, and `.cfg` only at the end.
            found = sorted(
                entry
                for entry in path.iterdir()
                if entry.name.partition(".cfg")[1:] == (".cfg", "") and entry.name[0] != "." and entry.is_file()
            )
        except OSError as error:
            raise LintError(path, f"cannot be read: {os_error(error)}") from None
        if not found:
            raise LintError(path, "a directory without *.cfg files; name the configuration file")
        files += found
    return files


def read_text(path: Path) -> str:
    """The text of one file; bytes that are not UTF-8 become escapes, because HAProxy accepts any in comments."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LintError(path, f"cannot be read: {os_error(error)}") from None
    if b"\0" in content:
        raise LintError(path, "a binary file, not an HAProxy configuration")
    return content.decode("utf-8", errors="backslashreplace")


def lines_of(path: Path, text: str, world: World) -> Iterator[Line]:
    """The lines that count, without the blocks that conditions exclude. Raises LintError."""
    in_section = False
    blocks: list[_Block] = []
    for number, raw in enumerate(text.split("\n"), start=1):
        at = Place(str(path), number)
        if (template := _TEMPLATE.search(raw)) and not raw[: template.start()].lstrip().startswith("#"):
            why = f"line {number}: {template[0]} belongs to a template; lint the haproxy.cfg generated from it"
            raise LintError(path, why)
        # A `[` starts a scope line, which is not part of HAProxy's own configuration.
        if raw.lstrip(_BLANKS + "\r").startswith("["):
            continue
        words = split_words(raw, world.variables, at)
        if not words or not words[0]:
            continue
        if words[0] in (".if", ".elif", ".else", ".endif"):
            _follow(blocks, words, world, at)
            continue
        if not all(block.taken for block in blocks) or words[0].startswith("."):
            continue
        in_section = in_section or words[0] in SECTIONS
        if not in_section:
            why = f"line {number}: {words[0]!r} before any section, so this is not an HAProxy configuration"
            raise LintError(path, why)
        yield Line(at, tuple(words))
    if blocks:
        raise LintError(path, f"line {blocks[-1].at.line}: .if without .endif")


def split_words(raw: str, variables: Mapping[str, str], at: Place) -> list[str]:
    """One line split into words: blanks separate them, quotes and backslashes protect, `#` ends the line."""
    words: list[str] = []
    word: str | None = None
    position = 0
    while match := _TOKEN.match(raw, position):
        position = match.end()
        parts = [match[0]]
        match match.lastgroup:
            case "end":
                break
            case "blank":
                if word is not None:
                    words.append(word)
                word, parts = None, []
            case "single":
                parts = [match["single"]]
            case "escape":
                text, position = _escaped(raw, position, "", at)
                parts = [text]
            case "double":
                parts, position = _double_quoted(raw, position, variables, at)
        for index, part in enumerate(parts):
            if index and word is not None:
                words.append(word)
                word = None
            word = (word or "") + part
    if position < len(raw) and raw[position] == "'":
        raise LintError(at.file, f"line {at.line}: unmatched ' quote")
    return words if word is None else [*words, word]


def _double_quoted(raw: str, position: int, variables: Mapping[str, str], at: Place) -> tuple[list[str], int]:
    """What is between double quotes: one word, unless a `${LIST[*]}` makes it several or none."""
    parts: list[str] = []
    empty = True
    while position < len(raw) and raw[position] not in '"\r':
        empty = False
        more = [raw[position]]
        position += 1
        if more == ["\\"]:
            text, position = _escaped(raw, position, '"', at)
            more = [text]
        elif more == ["$"]:
            more, position = _variable(raw, position - 1, variables, at)
        if parts and more:
            parts[-1] += more.pop(0)
        parts += more
    if raw[position : position + 1] != '"':
        raise LintError(at.file, f'line {at.line}: unmatched " quote')
    return ([""] if empty else parts), position + 1


def _escaped(raw: str, position: int, quote: str, at: Place) -> tuple[str, int]:
    """What a backslash before `position` stands for; a backslash before anything else is itself."""
    following = raw[position : position + 1]
    if following == "x":
        digits = raw[position + 1 : position + 3]
        if not _HEX.fullmatch(digits):
            raise LintError(at.file, f"line {at.line}: \\x needs two hexadecimal digits")
        return chr(int(digits, 16)), position + 3
    if following in _CONTROL:
        return _CONTROL[following], position + 1
    if following and (following in " \\#'\"" or (following == "$" and quote)):
        return following, position + 1
    return "\\", position


def _variable(raw: str, position: int, variables: Mapping[str, str], at: Place) -> tuple[list[str], int]:
    """The words a `$NAME`, `${NAME}`, `${NAME-default}` or `${NAME[*]}` at `position` stands for."""
    match = _VARIABLE.match(raw, position)
    if not match:
        raise LintError(at.file, f"line {at.line}: $ without a variable name; write \\$ for a dollar sign")
    name = match["name"]
    value = variables.get(name)
    position = match.end()
    as_words = False
    if match["brace"]:
        rest = _BRACED_REST.match(raw, position)
        if not rest:
            raise LintError(at.file, f"line {at.line}: unmatched brace after ${{{name}")
        position = rest.end()
        as_words = rest["words"] is not None
        value = rest["default"] if value is None else value
    if value is None:
        return [f"${{{name}}}"], position
    return (value.split() if as_words else [value]), position


@dataclass(slots=True)
class _Block:
    """One `.if`: whether the current branch is read, whether one was read already, and where it started."""

    at: Place
    taken: bool
    done: bool
    masked: bool


def _follow(blocks: list[_Block], words: list[str], world: World, at: Place) -> None:
    if words[0] == ".if":
        masked = not all(block.taken for block in blocks)
        taken = not masked and _truth(words[1:], world)
        blocks.append(_Block(at, taken, done=taken, masked=masked))
        return
    if not blocks:
        raise LintError(at.file, f"line {at.line}: {words[0]} without .if")
    block = blocks[-1]
    if words[0] == ".endif":
        blocks.pop()
    else:
        wanted = not block.masked and not block.done
        block.taken = wanted and (words[0] == ".else" or _truth(words[1:], world))
        block.done = block.done or block.taken


def _truth(words: list[str], world: World) -> bool:
    """Evaluates numbers, `defined` of a variable that is set, and comparisons of known texts; the rest is assumed."""
    text = " ".join(words)
    match = re.fullmatch(r"(?P<no>(?:!\s*)*)(?:(?P<number>\d+)|(?P<name>\w+)\((?P<args>[^()]*)\))", text)
    known: bool | None = None
    if match and is_known(text):
        args = [arg.strip().strip("\"'") for arg in (match["args"] or "").split(",")]
        if match["number"]:
            known = match["number"].strip("0") != ""
        elif match["name"] == "defined" and args[0] in world.variables:
            known = True
        elif match["name"] in ("streq", "strneq") and len(args) > 1:
            known = (args[0] == args[1]) == (match["name"] == "streq")
        if known is not None:
            return known != (match["no"].count("!") % 2 == 1)
    return world.assumed.setdefault(text, True)
