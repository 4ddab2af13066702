"""busyweight: tells HAProxy's agent-check how much of this host is free."""
