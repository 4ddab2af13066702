"""PURE. What the agent replies, and why: counts -> decision -> the line on the wire. Imports no other room."""
