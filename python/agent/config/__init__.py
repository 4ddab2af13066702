"""PURE, except for the paths. What can be configured: TOML -> one frozen Config. Of `weight` it knows only Rule."""
