"""WORLD. The commands that people type beside the running agent. `serve` never imports this room."""
