"""PURE. Wording that several places share, so that it is the same in all of them."""


def os_error(error: OSError) -> str:
    """The system's reason, for the end of a sentence."""
    return (error.strerror or str(error)).lower()


def printable(text: str) -> str:
    """Untrusted text, made safe to print on a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def pool_title(pool: str) -> str:
    """What a pool is called; the default one has no name."""
    return f"pool {pool}" if pool else "default pool"


def pool_prefix(pool: str) -> str:
    """The prefix of a text about one pool; empty for the default pool."""
    return f"pool {pool}: " if pool else ""


def quoted(reply: str) -> str:
    """A reply for people: in quotes, without its line ending."""
    return repr(reply.rstrip("\r\n"))
