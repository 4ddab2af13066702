"""The operator: overrides, the control socket and what the agent tells of itself. Serves no polls."""
