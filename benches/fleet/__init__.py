"""The fleet bench: what weights are worth to a fleet behind a real HAProxy. `python -m benches.fleet` runs it."""
