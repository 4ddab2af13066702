"""What each command does: its options in, words and an exit code out.

0: well; 1: it ran and something is wrong; 2: usage or configuration. Every command imports
what it needs when it runs, so that the agent carries nothing it does not use.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from agent.config import schema, values

DEFAULT_FILE = Path("/etc/busyweight/busyweight.toml")

WELL, WRONG, USAGE = 0, 1, 2


def load(options: argparse.Namespace, *, elsewhere: bool = False) -> schema.Config:
    """The configuration that the options ask for; ``elsewhere``: it is another machine's, whose
    users and groups need not be here. Raises ConfigError."""
    return _parse(options, _text(options), elsewhere=elsewhere)


def reloader(options: argparse.Namespace) -> Callable[[], schema.Config]:
    """Reads the configuration again and again. A file that was there and is gone, or is empty now, is being
    written by somebody, and does not mean that all defaults are wanted. Raises ConfigError, as :func:`load`."""
    path = options.config or DEFAULT_FILE
    seen = False

    def read() -> schema.Config:
        nonlocal seen
        text = _text(options)
        if seen and not text:
            what = "it is empty" if path.exists() else "no such file"
            raise schema.ConfigError(
                [f"{path}: {what}, and there were settings before; for all defaults, write a comment"]
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
    """To stderr. Where that cannot be written, the exit code says it alone."""
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
        # On a thread: a disk, or who knows the users' names, may hang, and then a signal must end it.
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
    """Prints the effective configuration as TOML; exit code 2, and every fault, if it is wrong."""
    loaded = load(options)
    print(schema.to_toml(loaded), end="")
    for warning in schema.warnings(loaded):
        print(f"warning: {warning}", file=sys.stderr)
    return WELL


def _status(options: argparse.Namespace) -> int:
    """Shows what the running agent says now, since when, and what it rests on."""
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
    """Shows live what the running agent says: the weight now and over the last ten minutes, the
    workers and how busy each is, the pollers and how often they ask, and orders in force.
    q or Ctrl-C ends it. Needs the rich library (the extra "top")."""
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
    """Looks at the host, the running agent and, where asked, HAProxy, and prints a line for each
    check: ok, warn or fail, what was found, and what to do about it. Works without an agent, and
    as any user, as far as that goes; it changes nothing. While somebody polls the agent it
    watches for some seconds, for half a minute at most. Exit code 1 if a check fails, 0 otherwise."""
    from agent.config import paths
    from agent.tools import doctor

    found = doctor.examine(
        load(options), options.config or DEFAULT_FILE, paths.control_socket(options.control), options.haproxy_socket
    )
    well = doctor.print_json(found) if options.json else doctor.print_lines(found)
    return WELL if well else WRONG


def _snippet(options: argparse.Namespace) -> int:
    """Prints a complete, commented haproxy.cfg fragment for this agent's port, pools, floor and capacity
    (this machine's cores where that is no number of processes): a frontend, a backend for each pool,
    and beside it the backend that serves when the pool is full of jobs or of requests."""
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
    """Says what in haproxy.cfg makes the agent useless or dangerous, as FILE:LINE: what, why, remedy.
    All files are one configuration together. Judged are the agent-checks on the ports of the agent's
    configuration (5001 without one). Exit code 1 if there is any finding; notes alone are 0."""
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
