"""How soon HAProxy's weight follows a job, measured with real parts only. See __main__.py."""
