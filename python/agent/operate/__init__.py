"""The operator's side: overrides, the control socket and the agent's status. Serves no polls."""
