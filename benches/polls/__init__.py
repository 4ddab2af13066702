"""The polls bench: what one answer costs, and how long it takes. `python -m benches.polls` runs it."""
