"""From a job's start to HAProxy's weight, and back, with nothing but real parts. See __main__.py."""
