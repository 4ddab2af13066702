"""The scan bench: what one scan costs, against the host's size. `python -m benches.scan` runs it."""
