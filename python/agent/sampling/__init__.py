"""When to scan, and what the host is. Knows no sockets, no operators and no words on the wire."""
