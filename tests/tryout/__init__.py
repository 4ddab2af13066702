"""First steps: `make run`, `make demo`, and what `make` reports when something is missing."""
