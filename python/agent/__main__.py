"""The entry point: ``busyweight`` and ``python -m agent``.

Signals that stop or reload the agent are blocked from here on, before anything else is imported, until the event loop
can handle them (serve/signals.py): even an agent that is stopped while it starts must release the weight that a
previous agent left in HAProxy.
"""

import sys


def main() -> int:
    """Runs one command. Returns the exit code."""
    if sys.argv[1:2] == ["serve"]:
        import signal

        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP})
    from agent import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
