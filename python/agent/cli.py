"""The command line: parses the arguments, makes one call, prints the result and returns an exit code.

Exit codes: 0 success; 1 it ran and found a problem; 2 usage or configuration. Every command imports what it needs
when it runs, so that the agent loads nothing that it does not use.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import _scan
from agent.config import schema, values

DEFAULT_FILE = Path("/etc/busyweight/busyweight.toml")

WELL, WRONG, USAGE = 0, 1, 2

# How a write to a file, a pipe or a terminal fails: write(2).
UNWRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - for good
    try:
        return _run(argv)
    except schema.ConfigError as error:
        for fault in error.faults:
            _complain(fault)
        return USAGE
    except OSError as error:
        if error.errno not in UNWRITTEN or error.filename is not None:
            raise
        # What is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return WRONG  # the reader is gone, so there is nobody to tell
        return _fail(f"cannot write the output: {(error.strerror or str(error)).lower()}")
    except KeyboardInterrupt:
        return WRONG


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = parser().parse_args(argv)
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    finally:
        # Also where --help or --version ends it.
        sys.stdout.flush()


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
        help="listen here instead of on the configured addresses; may be repeated",
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
    check.add_argument("--json", action="store_true", help="print everything that was found, as JSON")
    check.add_argument("--workers", action="store_true", help="list what was counted: pid, user, title, reading")
    check.set_defaults(run=_check)

    show = commands.add_parser("config", help="show the effective configuration", description=_config.__doc__)
    _config_option(show)
    show.set_defaults(run=_config)
    _add_operators(commands)
    _add_tools(commands)
    return top


def _add_operators(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands for the running agent."""
    status = commands.add_parser(
        "status", help="show what the running agent replies, and why", description=_status.__doc__
    )
    status.add_argument("--json", action="store_true", help="print the whole status, as JSON")
    _control_option(status)
    status.set_defaults(run=_status)

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
        command.set_defaults(run=_order, kind=kind)


def _add_tools(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands that look at this host, the running agent, and HAProxy."""
    top = commands.add_parser("top", help="watch the running agent live", description=_top.__doc__)
    _control_option(top)
    top.add_argument("--once", action="store_true", help="watch for a second, print one frame and exit")
    top.set_defaults(run=_top)

    doctor = commands.add_parser(
        "doctor", help="check what works, what does not, and what to do about it", description=_doctor.__doc__
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
    doctor.set_defaults(run=_doctor)

    haproxy = commands.add_parser("haproxy", help="help with haproxy.cfg", description="Helps with haproxy.cfg.")
    helps = haproxy.add_subparsers(metavar="COMMAND", required=True)
    snippet = helps.add_parser(
        "snippet", help="print a ready haproxy.cfg fragment for this agent", description=_snippet.__doc__
    )
    _config_option(snippet)
    snippet.add_argument(
        "servers",
        metavar="NAME=ADDR:PORT",
        nargs="*",
        help="a server behind HAProxy, such as web1=192.0.2.11:80 (default: examples)",
    )
    snippet.set_defaults(run=_snippet)

    lint = helps.add_parser(
        "lint", help="find what in haproxy.cfg makes the agent useless or dangerous", description=_lint.__doc__
    )
    _config_option(lint)
    lint.add_argument("--all", action="store_true", help="check every agent-check, not only those on the agent's ports")
    lint.add_argument(
        "--haproxy-version",
        metavar="VERSION",
        help='HAProxy version to check for, such as 3.2 or 3.4.1 (default: that of "haproxy -v" here)',
    )
    lint.add_argument("files", metavar="FILE", type=Path, nargs="+", help="files and directories, as for HAProxy's -f")
    lint.set_defaults(run=_lint)


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
    """A kind of value as an option's type, with the same words as in the configuration."""

    def read(text: str) -> "values.T":
        try:
            return kind(text)
        except values.Wrong as wrong:
            raise argparse.ArgumentTypeError(f"found {text!r}; allowed: {wrong}") from None

    return read


def load(options: argparse.Namespace, *, elsewhere: bool = False) -> schema.Config:
    """The configuration that the options select; ``elsewhere``: it is for another machine, whose users and groups
    need not exist here. Raises ConfigError."""
    return _parse(options, _text(options), elsewhere=elsewhere)


def reloader(options: argparse.Namespace) -> Callable[[], schema.Config]:
    """Returns a function that reads the configuration. A file that had settings and is now missing or empty is
    probably being rewritten, and must not mean "all defaults". Raises ConfigError, like :func:`load`."""
    path = options.config or DEFAULT_FILE
    seen = False

    def read() -> schema.Config:
        nonlocal seen
        text = _text(options)
        if seen and not text:
            what = "empty" if path.exists() else "no such file"
            raise schema.ConfigError(
                [f"{path}: {what}, but it had settings before; to go back to the defaults, write a comment into it"]
            )
        seen = bool(text)
        return _parse(options, text)

    return read


def _text(options: argparse.Namespace) -> str:
    """The configuration file's text; none where the default file is not there."""
    path = options.config or DEFAULT_FILE
    try:
        return str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if options.config:
            raise schema.ConfigError([f"{path}: no such file"]) from None
        return ""
    except UnicodeDecodeError as error:
        raise schema.ConfigError([f"{path}: not UTF-8 at byte {error.start}"]) from None
    except OSError as error:
        raise schema.ConfigError([f"{path}: cannot be read: {(error.strerror or str(error)).lower()}"]) from None


def _parse(options: argparse.Namespace, text: str, *, elsewhere: bool = False) -> schema.Config:
    from dataclasses import replace

    from agent.sampling import host

    checks = schema.Checks(workers=host.CHECKS.workers) if elsewhere else host.CHECKS
    loaded = schema.parse(text, str(options.config or DEFAULT_FILE), checks)
    if getattr(options, "procfs", None):
        loaded = replace(loaded, scan=replace(loaded.scan, procfs=options.procfs))
    if getattr(options, "listen", None):
        loaded = replace(loaded, listen=tuple(options.listen))
    return loaded


def _complain(text: object) -> None:
    """Prints to stderr. If that cannot be written, only the exit code tells."""
    try:
        print(text, file=sys.stderr)
    except OSError:
        # What is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _fail(text: object, code: int = WRONG) -> int:
    _complain(f"busyweight: {text}")
    return code


def _serve(options: argparse.Namespace) -> int:
    """Answers HAProxy's agent-checks until SIGTERM or SIGINT; SIGHUP reloads the configuration."""
    import gc

    gc.collect()  # the parser is full of circles: what is imported next moves into its memory

    from agent.serve import loop  # before all that imports asyncio

    # isort: split
    from agent.config import paths
    from agent.operate.threads import run_in_thread
    from agent.serve import farewell, logs
    from agent.serve.daemon import Daemon
    from agent.serve.signals import Signals, StoppedError
    from agent.serve.startup import StartError, load_whole

    async def serve() -> None:
        signals = Signals()
        read = reloader(options)
        # On a thread: the disk or the name service may hang, and a signal must still be able to stop the agent.
        loaded = await signals.unless_stopped(run_in_thread(lambda: load_whole(read)))
        logs.set_up(loaded.config.log.level, loaded.config.log.format)
        daemon = Daemon(
            loaded,
            read,
            signals,
            file=options.config or DEFAULT_FILE,
            state=paths.state_directory(options.state),
            control=paths.control_socket(options.control),
        )
        logs.begin()
        await daemon.run()

    try:
        loop.run(serve())
    except StoppedError:
        return WELL
    except (StartError, schema.ConfigError) as error:
        logs.end()
        code, faults = WRONG, [f"busyweight: {error}"]
        if isinstance(error, schema.ConfigError):
            code, faults = USAGE, error.faults
        for fault in faults:
            _complain(fault)
        loop.run(farewell.say())
        return code
    finally:
        logs.end()
    return WELL


def _check(options: argparse.Namespace) -> int:
    """Scans once and prints the exact reply; exit code 1 if it is unknown."""
    from agent.tools import check

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
    decision = found.said[0].decision
    if not decision.known:
        return _fail(f"unknown: {decision.reason}")
    return WELL


def _config(options: argparse.Namespace) -> int:
    """Prints the effective configuration as TOML; lists every error and exits with 2 if there are any."""
    loaded = load(options)
    print(schema.to_toml(loaded), end="")
    for warning in schema.warnings(loaded):
        print(f"warning: {warning}", file=sys.stderr)
    return WELL


def _status(options: argparse.Namespace) -> int:
    """Shows what the running agent replies now, since when, and what that is based on."""
    import time

    from agent.config import paths
    from agent.tools import client, console

    try:
        told = console.status(paths.control_socket(options.control))
    except client.ClientError as error:
        return _fail(error)
    print(console.as_json(told) if options.json else console.show(told, time.time()).rstrip("\n"))
    return WELL


def _order(options: argparse.Namespace) -> int:
    from agent.config import paths
    from agent.tools import client, console

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


def _top(options: argparse.Namespace) -> int:
    """Shows the running agent live: the weight now and over the last ten minutes, the workers and
    how busy each is, the pollers and how often they poll, and any active override. Quit with q
    or Ctrl-C. Needs the rich library (the extra "top")."""
    from agent.config import paths
    from agent.tools import client

    try:
        from agent.tools import top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        return _fail("top needs the rich library: pip install 'busyweight[top]', or apt install python3-rich")
    try:
        top.run(paths.control_socket(options.control), once=options.once)
    except top.NoTerminalError as error:
        return _fail(error, USAGE)
    except client.ClientError as error:
        return _fail(error)
    return WELL


def _doctor(options: argparse.Namespace) -> int:
    """Checks the host, the running agent and, on request, HAProxy. Prints one line per check: ok,
    warn or fail, what was found, and what to do about it. Works as any user and without an
    agent, as far as possible, and changes nothing. If the agent is being polled, doctor watches
    the polls for up to half a minute. Exit code 1 if a check fails, 0 otherwise."""
    from agent.config import paths
    from agent.tools import doctor

    found = doctor.examine(
        load(options), options.config or DEFAULT_FILE, paths.control_socket(options.control), options.haproxy_socket
    )
    well = doctor.print_json(found) if options.json else doctor.print_lines(found)
    return WELL if well else WRONG


def _snippet(options: argparse.Namespace) -> int:
    """Prints a complete, commented haproxy.cfg fragment for this agent's port, pools, floor and capacity
    (this machine's cores if the capacity is not a number of processes): a frontend, a backend for
    each pool, and a second backend that takes over when the pool is full of jobs or requests."""
    from agent.sampling import capacity
    from agent.tools import haproxy

    loaded = load(options, elsewhere=True)
    try:
        text = haproxy.snippet(
            loaded.listen[0][1],
            [haproxy.parse_server(server) for server in options.servers],
            [pool.name for pool in loaded.pools],
            floor_percent=schema.lowest_weight(loaded),
            bears=haproxy.capacities(loaded.all_pools),
            cores=capacity.cores()[0],
        )
    except haproxy.SnippetError as error:
        return _fail(error, USAGE)
    print(text, end="")
    return WELL


def _lint(options: argparse.Namespace) -> int:
    """Finds what in haproxy.cfg makes the agent useless or dangerous, and prints it as FILE:LINE: what,
    why, remedy. All files together are one configuration. Checks the servers whose agent-port is in
    the agent's configuration (5001 without one). Exit code 1 if there are findings, 0 for notes only."""
    from agent.tools import haproxy

    loaded = load(options, elsewhere=True)
    named = options.haproxy_version
    try:
        version = haproxy.parse_version(named) if named is not None else haproxy.installed_version()
    except ValueError:
        return _fail(f"--haproxy-version {named!r}: write it as 3.2 or 3.4.1", USAGE)
    try:
        found = haproxy.lint(
            options.files,
            {port for _, port in loaded.listen},
            all_checks=options.all,
            floor_above_zero=schema.lowest_weight(loaded) > 0,
            bare_replies=loaded.reply.health == "none",
            version=version,
        )
    except haproxy.LintError as error:
        return _fail(error, USAGE)
    for finding in found:
        print(finding)
    return WRONG if any(finding.severity == "finding" for finding in found) else WELL
