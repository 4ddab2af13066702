"""The command line: parses the arguments, makes one call, and returns an exit code.

The manual page, docs/commands.md and the completions are made from its parser. What a command does is in
`actions`; nothing is done here.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import _scan, actions
from agent.config import toml, values
from agent.config.file import DEFAULT_FILE
from agent.config.words import os_error

# The errors of writing to a file, a pipe or a terminal: write(2).
UNWRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - open for good
    try:
        return _run(argv)
    except toml.ConfigError as error:
        for fault in error.faults:
            actions.complain(fault)
        return actions.USAGE
    except OSError as error:
        if error.errno not in UNWRITTEN or error.filename is not None:
            raise
        # What is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return actions.WRONG  # the reader is gone, so there is nobody to tell
        return actions.fail(f"cannot write the output: {os_error(error)}")
    except KeyboardInterrupt:
        return actions.WRONG


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = parser().parse_args(argv)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    finally:
        # Also if --help or --version ends the process.
        sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    """The whole command line; the manual page is made from it too."""
    top = argparse.ArgumentParser(
        prog="busyweight", description="Tells HAProxy's agent-check how much of this host is free."
    )
    top.add_argument("--version", action="version", version=f"busyweight {_scan.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="answer HAProxy's agent-checks", description=actions.serve.__doc__)
    _config_option(serve)
    serve.add_argument(
        "--listen",
        metavar="ADDR:PORT",
        action="append",
        type=_option(values.address),
        help="listen here instead of on the configured addresses; may be repeated",
    )
    _procfs_option(serve)
    serve.add_argument(
        "--state",
        metavar="DIR",
        help="where overrides are kept (default: $STATE_DIRECTORY, else /var/lib/busyweight)",
    )
    _control_option(serve)
    serve.set_defaults(run=actions.serve)

    check = commands.add_parser("check", help="scan once and print the reply", description=actions.check.__doc__)
    _config_option(check)
    _procfs_option(check)
    check.add_argument("--json", action="store_true", help="print everything that was found, as JSON")
    check.add_argument("--workers", action="store_true", help="list what was counted: pid, user, title, reading")
    check.set_defaults(run=actions.check)

    show = commands.add_parser("config", help="show the effective configuration", description=actions.config.__doc__)
    _config_option(show)
    show.set_defaults(run=actions.config)
    _add_operators(commands)
    _add_tools(commands)
    return top


def _add_operators(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands for the running agent."""
    status = commands.add_parser(
        "status", help="show what the running agent replies, and why", description=actions.status.__doc__
    )
    status.add_argument("--json", action="store_true", help="print the whole status, as JSON")
    _control_option(status)
    status.set_defaults(run=actions.status)

    for kind, does in (
        ("drain", "take this host out of the pool: no new clients, existing ones stay"),
        ("maint", "put this host into maintenance: no clients"),
        ("weight", "report this weight instead of the measured one"),
        ("ready", "end drain, maint or weight"),
    ):
        command = commands.add_parser(kind, help=does, description=f"Tells the running agent to {does}.")
        if kind == "weight":
            command.add_argument(
                "weight", metavar="PERCENT", type=_option(values.plain_percent), help='"40" or "40%%", from 0 to 100'
            )
        lasts = 'how long the override lasts, such as 30m (default: until "busyweight ready")'
        if kind == "ready":
            lasts = 'how long to send "ready" to the balancers (default: reply.release_for)'
        command.add_argument("--for", dest="lasts", metavar="30m", type=_option(values.lasting), help=lasts)
        command.add_argument(
            "--reason", metavar="TEXT", type=_option(values.reason), help="reason, shown in status, log and HAProxy"
        )
        _control_option(command)
        command.set_defaults(run=actions.order, kind=kind)


def _add_tools(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands that look at this host, the running agent, and HAProxy."""
    top = commands.add_parser("top", help="watch the running agent live", description=actions.top.__doc__)
    _control_option(top)
    top.add_argument("--once", action="store_true", help="watch for a second, print one frame and exit")
    top.set_defaults(run=actions.top)

    doctor = commands.add_parser(
        "doctor", help="check what works, what does not, and what to do about it", description=actions.doctor.__doc__
    )
    _config_option(doctor)
    _control_option(doctor)
    doctor.add_argument(
        "--haproxy-socket",
        metavar="PATH",
        type=Path,
        help="HAProxy's stats socket: compare its weights with what the agent replies",
    )
    doctor.add_argument("--json", action="store_true", help="print every check as JSON")
    doctor.set_defaults(run=actions.doctor)

    haproxy = commands.add_parser("haproxy", help="help with haproxy.cfg", description="Helps with haproxy.cfg.")
    helps = haproxy.add_subparsers(metavar="COMMAND", required=True)
    snippet = helps.add_parser(
        "snippet", help="print a ready haproxy.cfg fragment for this agent", description=actions.snippet.__doc__
    )
    _config_option(snippet)
    snippet.add_argument(
        "servers",
        metavar="NAME=ADDR:PORT",
        nargs="*",
        help="a server behind HAProxy, such as web1=192.0.2.11:80 (default: examples)",
    )
    snippet.set_defaults(run=actions.snippet)

    lint = helps.add_parser(
        "lint", help="find what in haproxy.cfg makes the agent useless or dangerous", description=actions.lint.__doc__
    )
    _config_option(lint)
    lint.add_argument("--all", action="store_true", help="check every agent-check, not only those on the agent's ports")
    lint.add_argument(
        "--haproxy-version",
        metavar="VERSION",
        help='HAProxy version to check for, such as 3.2 or 3.4.1 (default: that of "haproxy -v" here)',
    )
    lint.add_argument("files", metavar="FILE", type=Path, nargs="+", help="files and directories, as for HAProxy's -f")
    lint.set_defaults(run=actions.lint)


def _config_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", type=Path, help=f"configuration file (default: {DEFAULT_FILE})")


def _control_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--control",
        metavar="PATH",
        help="the agent's control socket (default: in $RUNTIME_DIRECTORY, else /run/busyweight/control.sock)",
    )


def _procfs_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--procfs", metavar="DIR", help="procfs to read instead of the configured one")


def _option(kind: "values.Kind[values.T]") -> Callable[[str], "values.T"]:
    """A kind of value as an option's type; its errors read as those of the configuration do."""

    def read(text: str) -> "values.T":
        try:
            return kind(text)
        except values.Wrong as wrong:
            raise argparse.ArgumentTypeError(f"found {text!r}; allowed: {wrong}") from None

    return read
