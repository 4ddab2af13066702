"""Every part in one place, for the tests to import from."""

from .agents import Agent, Installed, Listener, Mortal, Script
from .haproxy import DEFAULTS, HAProxy, Response, get
from .part import Part, free_port, until, watching
from .presets import Postgres, Psql, Rq, Titled
from .workers import Redis, Sidekiq, Title, cmdline, sidekiqs_here, title

__all__ = [
    "DEFAULTS",
    "Agent",
    "HAProxy",
    "Installed",
    "Listener",
    "Mortal",
    "Part",
    "Postgres",
    "Psql",
    "Redis",
    "Response",
    "Rq",
    "Script",
    "Sidekiq",
    "Title",
    "Titled",
    "cmdline",
    "free_port",
    "get",
    "sidekiqs_here",
    "title",
    "until",
    "watching",
]
