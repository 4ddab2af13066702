"""Help with HAProxy's side: a configuration that uses the agent well, and problems in an existing one.

Nothing here talks to a running HAProxy or to the agent; apart from `haproxy -v` it is text in, text out.
"""

from .finding import LintFinding
from .lint import lint
from .read import LintError
from .snippet import SnippetError, WebServer, capacities, parse_server, snippet
from .version import installed_version, parse_version

__all__ = [
    "LintError",
    "LintFinding",
    "SnippetError",
    "WebServer",
    "capacities",
    "installed_version",
    "lint",
    "parse_server",
    "parse_version",
    "snippet",
]
