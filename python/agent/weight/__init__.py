"""PURE. What is said, and why: counts -> decision -> the line on the wire. Imports no other room."""
