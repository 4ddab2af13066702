"""PURE, except for files and paths. What can be configured: TOML -> a frozen Config. Of `weight` it knows only Rule."""
