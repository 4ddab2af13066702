"""PURE, except for files and paths. The configuration: TOML -> a frozen Config. Imports only Rule from `weight`."""
