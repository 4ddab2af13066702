"""The command line: words in, one call, words and an exit code out.

0: well; 1: it ran and something is wrong; 2: usage or configuration. Every command imports
what it needs when it runs, so that the agent carries nothing it does not use.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import _scan, config, values

DEFAULT_FILE = Path("/etc/busyweight/busyweight.toml")

WELL, WRONG, USAGE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code."""
    try:
        options = parser().parse_args(argv)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except config.ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        sys.stderr.close()
        return WRONG
    except KeyboardInterrupt:
        return WRONG


def parser() -> argparse.ArgumentParser:
    """The whole command line; the manual page is made from it, too."""
    top = argparse.ArgumentParser(
        prog="busyweight", description="Tells HAProxy's agent-check how much of this host is free."
    )
    top.add_argument("--version", action="version", version=f"busyweight {_scan.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="answer HAProxy's agent-checks", description=_serve.__doc__)
    _config_option(serve)
    serve.add_argument(
        "--listen",
        metavar="ADDR:PORT",
        action="append",
        type=_option(values.address),
        help="listen here instead of where the configuration says; may be given several times",
    )
    _procfs_option(serve)
    serve.add_argument(
        "--state",
        metavar="DIR",
        help="where overrides are kept (default: $STATE_DIRECTORY, else /var/lib/busyweight)",
    )
    _control_option(serve)
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="scan once and print the reply", description=_check.__doc__)
    _config_option(check)
    _procfs_option(check)
    check.add_argument("--json", action="store_true", help="print all that was found, as JSON")
    check.add_argument("--workers", action="store_true", help="list what was counted: pid, user, title, reading")
    check.set_defaults(run=_check)

    show = commands.add_parser("config", help="show the effective configuration", description=_config.__doc__)
    _config_option(show)
    show.set_defaults(run=_config)
    _add_operators(commands)
    return top


def _add_operators(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """What is asked of the running agent."""
    status = commands.add_parser(
        "status", help="show what the running agent says, and why", description=_status.__doc__
    )
    status.add_argument("--json", action="store_true", help="print all of it, as JSON")
    _control_option(status)
    status.set_defaults(run=_status)

    for kind, does in (
        ("drain", "take this host out of the pool: no new clients, the present ones stay"),
        ("maint", "put this host into maintenance: no clients"),
        ("weight", "say this weight instead of the measured one"),
        ("ready", "end drain, maint or weight"),
    ):
        command = commands.add_parser(kind, help=does, description=f"Tells the running agent to {does}.")
        if kind == "weight":
            command.add_argument(
                "weight", metavar="PERCENT", type=_option(values.plain_percent), help='"40" or "40%%", from 0 to 100'
            )
        lasts = "for so long, such as 30m; then the agent is ready again (default: until it is ordered)"
        if kind == "ready":
            lasts = "for how long balancers are told (default: release_for in the configuration)"
        command.add_argument("--for", dest="lasts", metavar="30m", type=_option(values.lasting), help=lasts)
        command.add_argument(
            "--reason", metavar="TEXT", type=_option(values.reason), help="why; shown in status, log and HAProxy"
        )
        _control_option(command)
        command.set_defaults(run=_order, kind=kind)


def _config_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", metavar="FILE", type=Path, help=f"configuration file (default: {DEFAULT_FILE})")


def _control_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--control",
        metavar="PATH",
        help="the operators' socket (default: in $RUNTIME_DIRECTORY, else /run/busyweight/control.sock)",
    )


def _procfs_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--procfs", metavar="DIR", help="read this tree instead of what the configuration says")


def _option(kind: "values.Kind[values.T]") -> Callable[[str], "values.T"]:
    """A kind of value as an option's type, with the same words as in the configuration."""

    def read(text: str) -> "values.T":
        try:
            return kind(text)
        except values.Wrong as wrong:
            raise argparse.ArgumentTypeError(f"found {text!r}; allowed: {wrong}") from None

    return read


def load(options: argparse.Namespace) -> config.Config:
    """The configuration that the options ask for. Raises ConfigError."""
    from dataclasses import replace

    from agent import host

    path = options.config or DEFAULT_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if options.config:
            raise config.ConfigError([f"{path}: no such file"]) from None
        text = ""
    except UnicodeDecodeError as error:
        raise config.ConfigError([f"{path}: not UTF-8 at byte {error.start}"]) from None
    except OSError as error:
        raise config.ConfigError([f"{path}: cannot be read: {(error.strerror or str(error)).lower()}"]) from None
    loaded = config.parse(text, str(path), host.CHECKS)
    if getattr(options, "procfs", None):
        loaded = replace(loaded, scan=replace(loaded.scan, procfs=options.procfs))
    if getattr(options, "listen", None):
        loaded = replace(loaded, listen=tuple(options.listen))
    return loaded


def _fail(text: object) -> int:
    print(f"busyweight: {text}", file=sys.stderr)
    return WRONG


def _serve(options: argparse.Namespace) -> int:
    """Answers HAProxy's agent-checks until SIGTERM or SIGINT; SIGHUP reloads the configuration."""
    # The loop comes before all that imports asyncio.
    from agent import logs, loop, paths
    from agent.daemon import Daemon
    from agent.reload import StartError

    def reload() -> config.Config:
        loaded = load(options)
        logs.set_up(loaded.log.level, loaded.log.format)
        return loaded

    first = reload()

    async def serve() -> None:
        daemon = Daemon(
            first,
            reload,
            file=options.config or DEFAULT_FILE,
            state=paths.state_directory(options.state),
            control=paths.control_socket(options.control),
        )
        await daemon.run()

    try:
        loop.run(serve())
    except StartError as error:
        return _fail(error)
    return WELL


def _check(options: argparse.Namespace) -> int:
    """Scans once and prints the exact reply; exit code 1 if it is unknown."""
    from agent import check

    loaded = load(options)
    try:
        found = check.check(loaded)
    except (OSError, RuntimeError) as error:
        return _fail(error)
    sys.stdout.flush()
    sys.stdout.buffer.write(check.as_json(found) if options.json else found.said[0].line)
    if options.workers and not options.json:
        sys.stdout.buffer.write(check.table(found).encode())
    sys.stdout.buffer.flush()
    verdict = found.said[0].verdict
    if not verdict.known:
        return _fail(f"unknown: {verdict.reason}")
    return WELL


def _config(options: argparse.Namespace) -> int:
    """Prints the effective configuration as TOML; exit code 2, and every fault, if it is wrong."""
    loaded = load(options)
    print(config.to_toml(loaded), end="")
    for warning in config.warnings(loaded):
        print(f"warning: {warning}", file=sys.stderr)
    return WELL


def _status(options: argparse.Namespace) -> int:
    """Shows what the running agent says now, since when, and what it rests on."""
    import time

    from agent import client, console, paths

    try:
        told = console.status(paths.control_socket(options.control))
    except client.ClientError as error:
        return _fail(error)
    print(console.as_json(told) if options.json else console.show(told, time.time()).rstrip("\n"))
    return WELL


def _order(options: argparse.Namespace) -> int:
    from agent import client, console, paths

    try:
        done, warnings = console.order(
            paths.control_socket(options.control),
            options.kind,
            weight=None if options.kind != "weight" else f"{options.weight}%",
            lasts=None if options.lasts is None else values.show_duration(options.lasts),
            reason=options.reason,
        )
    except client.ClientError as error:
        return _fail(error)
    print(done)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return WELL
