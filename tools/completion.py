"""Prints what a shell completes after `busyweight`, from the parser of the command line, as --help is.

python -m tools.completion bash|zsh
"""

import argparse
import sys

import shtab

from agent.cli import parser

# What their arguments are called, in --help as well.
FILES, DIRECTORIES = {"FILE", "PATH"}, {"DIR"}


def marked(of: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, and those of its commands, with the arguments marked that name files and directories."""
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                marked(command)
        elif action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined] - where shtab looks
        elif action.metavar in DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined] - as above
    return of


if __name__ == "__main__":
    print(shtab.complete(marked(parser()), sys.argv[1]))
