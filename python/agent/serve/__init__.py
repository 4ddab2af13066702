"""WORLD. The running agent: its sockets, signals, reloads and metrics, wired by `daemon`."""
