"""Tests against the real parts: Redis, Sidekiq, HAProxy and the agent as a process of its own."""
