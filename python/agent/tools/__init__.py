"""WORLD. The commands that people use next to the running agent. `serve` never imports this room."""
