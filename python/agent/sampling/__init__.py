"""When to scan, and what the host is. Knows no sockets, no operators and no reply format."""
