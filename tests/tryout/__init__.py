"""The first hour: `make run`, `make demo`, and what `make` says where something is missing."""
