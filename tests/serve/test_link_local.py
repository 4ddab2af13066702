"""Addresses that are valid on one interface only."""

import subprocess
import sys

import pytest

ON_AN_INTERFACE = """
import socket
from agent.config import values
from agent.serve.server import ListenError, address_of, open_listener

listener = open_listener(values.address("[fe80::b%lo]:0"), 16)
socket.create_connection(address_of(listener), 5).close()
print(values.show_address(address_of(listener)).rpartition(":")[0])
for wrong in ("[fe80::b]:5001", "[fe80::b%none]:5001"):
    try:
        open_listener(values.address(wrong), 16)
    except ListenError as error:
        print(error)
"""


@pytest.mark.root("a network is made")
def test_link_local_addresses() -> None:
    """Served on their interface; without one, refused with the remedy."""
    network = "ip link set lo up && ip -6 addr add fe80::b/64 dev lo nodad"
    script = f'{network} && exec "$0" -c "$1"'
    argv = ["unshare", "--net", "sh", "-c", script, sys.executable, ON_AN_INTERFACE]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [
        "[fe80::b%lo]",
        "cannot listen on [fe80::b]:5001: invalid argument; "
        "a link-local address needs its interface, as in [fe80::1%eth0]:5001",
        "cannot listen on [fe80::b%none]:5001: no such device; no such interface on this host: see ip link",
    ]
