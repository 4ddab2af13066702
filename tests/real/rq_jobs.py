"""What the real rq workers of these tests do: nothing, until told."""

from redis import Redis


def hold(url: str, key: str) -> None:
    """Lasts until somebody pushes to the list `key`; the library's own timeout would end it sooner."""
    Redis.from_url(url, socket_timeout=None).blpop([key])
