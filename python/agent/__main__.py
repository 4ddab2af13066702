"""The way in: ``busyweight`` and ``python -m agent``.

What ends or reloads the agent is held back from here on, before anything else is imported, until
the event loop can heed it (serve/signals.py): an agent that is stopped while it starts still has a
former one's last word to take back.
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
