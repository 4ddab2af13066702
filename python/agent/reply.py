"""PURE. The words on the wire: what HAProxy's agent-check reads.

One line. Its words are separated by blanks, and ``#`` begins a description that HAProxy's
statistics page shows only beside a health word (src/tcpcheck.c, tcpcheck_agent_expect_reply).
"""

from agent.policy import Verdict

# HAProxy reads a line of up to its buffer's size; a page shows far less.
DESCRIPTION_LEN_MAX = 200


def describe(text: str) -> str:
    """Makes any text safe for a description: one line of printable ASCII, not too long."""
    safe = "".join(c if " " <= c <= "~" else "?" for c in text)
    return safe[:DESCRIPTION_LEN_MAX]


def render(verdict: Verdict, *, health: str) -> bytes:
    """The reply for a verdict.

    With health ``up``: ``up 75% #6/24 busy\\n``, and without a weight ``up #REASON\\n``, which
    leaves HAProxy's weight as it is and shows why. With health ``none``: ``75%\\r\\n``, byte for
    byte the original script's, and without a weight an empty line: no news.
    """
    if health == "none":
        return b"\n" if verdict.weight is None else b"%d%%\r\n" % verdict.weight
    weight = "" if verdict.weight is None else f"{verdict.weight}% "
    return f"up {weight}#{describe(verdict.reason)}\n".encode("ascii")
