"""What each command does: takes the parsed options, prints, and returns an exit code.

Exit codes: 0 success; 1 it ran and found a problem; 2 usage or configuration. Every command imports what it needs
when it runs, so that the agent loads nothing that it does not use.
"""

import argparse
import contextlib
import os
import sys

from agent.config import toml, values
from agent.config.file import Source
from agent.config.schema import Config
from agent.config.words import os_error

WELL, WRONG, USAGE = 0, 1, 2


def _source(options: argparse.Namespace) -> Source:
    """Where the options say that the configuration is."""
    listen = getattr(options, "listen", None) or ()
    return Source(options.config, getattr(options, "procfs", None), tuple(listen))


def _load(options: argparse.Namespace) -> Config:
    """The configuration for this machine. Raises ConfigError."""
    from agent.sampling import host

    return _source(options).load(host.CHECKS)


def _load_for_others(options: argparse.Namespace) -> Config:
    """The configuration of another machine, whose users and groups need not exist here. Raises ConfigError."""
    from agent.sampling import host

    return _source(options).load(toml.Checks(workers=host.CHECKS.workers))


def complain(text: object) -> None:
    """Prints to stderr. If that cannot be written, only the exit code tells."""
    try:
        print(text, file=sys.stderr)
    except OSError:
        # What is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def fail(text: object, code: int = WRONG) -> int:
    """Says why, and returns the exit code."""
    complain(f"busyweight: {text}")
    return code


def serve(options: argparse.Namespace) -> int:
    """Answers HAProxy's agent-checks until SIGTERM or SIGINT; SIGHUP reloads the configuration."""
    import gc

    gc.collect()  # the parser has many reference cycles: later imports reuse their memory

    from agent.serve import loop  # before everything that imports asyncio

    # isort: split
    from agent.config import paths
    from agent.operate.threads import run_in_thread
    from agent.sampling import host
    from agent.serve import farewell, logs
    from agent.serve.daemon import Daemon
    from agent.serve.signals import Signals, StoppedError
    from agent.serve.startup import StartError, load_whole

    source = _source(options)

    async def run() -> None:
        try:
            signals = Signals()
            read = source.reloader(host.CHECKS)
            # On a thread: the disk or the name service may hang, and a signal must still be able to stop the agent.
            loaded = await signals.unless_stopped(run_in_thread(lambda: load_whole(read)))
            logs.set_up(loaded.config.log.level, loaded.config.log.format)
            daemon = Daemon(
                loaded,
                read,
                signals,
                file=source.file,
                state=paths.state_directory(options.state),
                control=paths.control_socket(options.control),
            )
        except OSError as error:
            raise StartError(f"cannot start: {os_error(error)}") from None
        logs.begin()
        await daemon.run()

    try:
        loop.run(run())
    except StoppedError:
        return WELL
    except (StartError, toml.ConfigError, loop.NoLoopError) as error:
        logs.end()
        code, faults = WRONG, [f"busyweight: {error}"]
        if isinstance(error, toml.ConfigError):
            code, faults = USAGE, error.faults
        for fault in faults:
            complain(fault)
        with contextlib.suppress(loop.NoLoopError, OSError):
            loop.run(farewell.say())
        return code
    finally:
        logs.end()
    return WELL


def check(options: argparse.Namespace) -> int:
    """Scans once and prints the exact reply; exit code 1 if it is unknown."""
    from agent.tools.check import as_json, table
    from agent.tools.check import check as scan_once

    loaded = _load(options)
    try:
        found = scan_once(loaded)
    except (OSError, RuntimeError) as error:
        return fail(error)
    sys.stdout.flush()
    sys.stdout.buffer.write(as_json(found) if options.json else found.said[0].line)
    if options.workers and not options.json:
        sys.stdout.buffer.write(table(found).encode())
    sys.stdout.buffer.flush()
    decision = found.said[0].decision
    if not decision.known:
        return fail(f"unknown: {decision.reason}")
    return WELL


def config(options: argparse.Namespace) -> int:
    """Prints the effective configuration as TOML; lists every error and exits with 2 if there are any."""
    from agent.config.advice import warnings

    loaded = _load(options)
    print(toml.to_toml(loaded), end="")
    for warning in warnings(loaded):
        print(f"warning: {warning}", file=sys.stderr)
    return WELL


def status(options: argparse.Namespace) -> int:
    """Shows what the running agent replies now, since when, and what that is based on."""
    import time

    from agent.config import paths
    from agent.tools import client, console

    try:
        told = console.status(paths.control_socket(options.control))
    except client.ClientError as error:
        return fail(error)
    print(console.as_json(told) if options.json else console.show(told, time.time()).rstrip("\n"))
    return WELL


def order(options: argparse.Namespace) -> int:
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
        return fail(error)
    print(done)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return WELL


def top(options: argparse.Namespace) -> int:
    """Shows the running agent live: the weight now and over the last ten minutes, the workers and
    how busy each is, the pollers and how often they poll, and any active override. Quit with q
    or Ctrl-C. Needs the rich library (the extra "top")."""
    from agent.config import paths
    from agent.tools import client

    try:
        from agent.tools import top as live
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        return fail("top needs the rich library: pip install 'busyweight[top]', or apt install python3-rich")
    try:
        live.run(paths.control_socket(options.control), once=options.once)
    except live.NoTerminalError as error:
        return fail(error, USAGE)
    except client.ClientError as error:
        return fail(error)
    return WELL


def doctor(options: argparse.Namespace) -> int:
    """Checks the host, the running agent and, on request, HAProxy. Prints one line per check: ok,
    warn or fail, what was found, and what to do about it. Works as any user and without an
    agent, as far as possible, and changes nothing. If the agent is being polled, doctor watches
    the polls for up to half a minute. Exit code 1 if a check fails, 0 otherwise."""
    from agent.config import paths
    from agent.tools.doctor import examine, print_json, print_lines

    found = examine(
        _load(options), _source(options).file, paths.control_socket(options.control), options.haproxy_socket
    )
    well = print_json(found) if options.json else print_lines(found)
    return WELL if well else WRONG


def snippet(options: argparse.Namespace) -> int:
    """Prints a complete, commented haproxy.cfg fragment for this agent's port, pools, floor and capacity
    (this machine's cores if the capacity is not a number of processes): a frontend, a backend for
    each pool, and a second backend that takes over when the pool is full of jobs or requests."""
    from agent.sampling import capacity
    from agent.tools import haproxy

    loaded = _load_for_others(options)
    try:
        text = haproxy.snippet(
            loaded.listen[0][1],
            [haproxy.parse_server(server) for server in options.servers],
            [pool.name for pool in loaded.pools],
            floor_percent=loaded.lowest_weight,
            maxconns=haproxy.capacities(loaded.all_pools),
            cores=capacity.cores()[0],
        )
    except haproxy.SnippetError as error:
        return fail(error, USAGE)
    print(text, end="")
    return WELL


def lint(options: argparse.Namespace) -> int:
    """Finds what in haproxy.cfg makes the agent useless or dangerous, and prints it as FILE:LINE: what,
    why, remedy. All files together are one configuration. Checks the servers whose agent-port is in
    the agent's configuration (5001 without one). Exit code 1 if there are findings, 0 for notes only."""
    from agent.tools import haproxy

    loaded = _load_for_others(options)
    named = options.haproxy_version
    try:
        version = haproxy.parse_version(named) if named is not None else haproxy.installed_version()
    except ValueError:
        return fail(f"--haproxy-version {named!r}: not a version such as 3.2 or 3.4.1", USAGE)
    try:
        found = haproxy.lint(
            options.files,
            {port for _, port in loaded.listen},
            all_checks=options.all,
            floor_above_zero=loaded.lowest_weight > 0,
            bare_replies=loaded.reply.health == "none",
            version=version,
            pools=[pool.name for pool in loaded.pools],
        )
    except haproxy.LintError as error:
        return fail(error, USAGE)
    for finding in found:
        print(finding)
    return WRONG if any(finding.severity == "finding" for finding in found) else WELL
