"""PURE, but for files and paths. What can be configured: TOML -> one frozen Config. Knows `weight`'s Rule alone."""
