"""Prints docs/commands.md: every command's own --help. `make test` checks that the page is what this prints."""

import argparse
import os
from collections.abc import Iterator
from unittest.mock import patch

from agent.cli import parser

# argparse wraps to the terminal, or to what this variable says; the page has a width of its own.
WIDTH = {"COLUMNS": "100"}


def commands(of: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of all commands, and of their commands."""
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield command
                yield from commands(command)


@patch.dict(os.environ, WIDTH)
def page() -> str:
    """The whole page."""
    parts = ["# Commands\n\nEvery command's `--help`. Exit codes: 0 success, 1 the command ran and found a problem, 2"]
    parts[0] += "\nwrong usage or configuration.\n"
    for command in [parser(), *commands(parser())]:
        parts.append(f"## {command.prog}\n\n```text\n{command.format_help().strip()}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
