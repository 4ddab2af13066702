"""PURE. The line on the wire that HAProxy's agent-check reads.

Its words are separated by spaces, and ``#`` starts a description, which HAProxy's statistics page shows only together
with a health keyword (src/tcpcheck.c, tcpcheck_agent_expect_reply).
"""

from agent.weight.policy import Decision

# HAProxy reads a line of up to its buffer's size; a page shows far less.
DESCRIPTION_LEN_MAX = 200


def describe(text: str) -> str:
    """Makes any text safe for a description: one line of printable ASCII, not too long."""
    safe = "".join(c if " " <= c <= "~" else "?" for c in text)
    return safe[:DESCRIPTION_LEN_MAX]


def render(decision: Decision, *, health: str, admin: str = "") -> bytes:
    """The reply for a decision.

    With health ``up``: ``up 75% #6/24 busy\\n``, and without a weight ``up #REASON\\n``, which leaves HAProxy's
    weight as it is and shows why. With health ``none``: ``75%\\r\\n``, byte for byte the original script's, and
    without a weight an empty line, which changes nothing.

    ``admin`` is ``drain``, ``maint`` or ``ready``, and comes first. A drain has no weight: with one, HAProxy 2.6 logs
    "remains in forced drain mode" at every check.
    """
    weight = "" if decision.weight is None else f"{decision.weight}%"
    if health == "none":
        words, end = [admin, weight], "\r\n" if weight else "\n"
    else:
        words, end = [admin, "up", weight, f"#{describe(decision.reason)}"], "\n"
    return (" ".join(word for word in words if word) + end).encode("ascii")
