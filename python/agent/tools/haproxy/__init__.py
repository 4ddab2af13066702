"""Help with HAProxy's side: a configuration that uses the agent well, and what is wrong with another.

Nothing here talks to HAProxy or to the agent; it is text in, text out.
"""

from .lint import Finding, lint
from .read import LintError
from .snippet import Server, SnippetError, capacities, parse_server, snippet

__all__ = ["Finding", "LintError", "Server", "SnippetError", "capacities", "lint", "parse_server", "snippet"]
