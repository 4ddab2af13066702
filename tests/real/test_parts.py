"""The test harness itself: one that hides failures or leaves processes behind proves nothing."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .parts import DEFAULTS, HAProxy, Response, free_port, get


class Site:
    """One HAProxy with one backend, whose servers are HAProxy itself."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.haproxy = HAProxy(home, self.configuration("a"))

    def configuration(self, *servers: str) -> str:
        lines = [f"    server {name} 127.0.0.1:{self.port} weight 100" for name in servers]
        front = f"frontend public\n    bind 127.0.0.1:{self.port}\n    http-request return status 200\n"
        return DEFAULTS + front + "backend web\n" + "\n".join(lines) + "\n"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    with site.haproxy:
        yield site


def test_an_operators_command_shows_in_the_servers_row(site: Site) -> None:
    site.haproxy.change("set server web/a state maint")
    site.haproxy.wait_server("web", "a", "in maintenance", lambda row: row["status"] == "MAINT", 3.0)


def test_a_command_that_haproxy_refuses_is_a_failure(site: Site) -> None:
    with pytest.raises(AssertionError, match="No such server"):
        site.haproxy.change("set server web/nobody state maint")


def test_a_reload_brings_the_new_configuration_and_ends_the_old_process(site: Site) -> None:
    old = site.haproxy.pid
    site.haproxy.change("set server web/a weight 50")
    site.haproxy.wait_weight("web", "a", 50, 3.0)

    site.haproxy.write_config(site.configuration("a", "b"))
    site.haproxy.reload()
    assert site.haproxy.pid != old
    assert set(site.haproxy.servers("web")) == {"a", "b"}
    assert site.haproxy.server("web", "a")["weight"] == "100"
    assert get(site.port) == Response(200, {"content-length": "0"}, b"")


def test_a_part_that_ends_instead_of_starting_fails_at_once_with_its_own_words(tmp_path: Path) -> None:
    haproxy = HAProxy(tmp_path, "such section\n")
    with pytest.raises(pytest.fail.Exception, match="unknown keyword 'such'"), haproxy:
        pass
    assert not haproxy.running


def test_a_weight_that_does_not_come_fails_with_the_row_last_seen(site: Site) -> None:
    with pytest.raises(pytest.fail.Exception, match="'svname': 'a'"):
        site.haproxy.wait_weight("web", "a", 7, 0.1)
