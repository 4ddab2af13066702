"""A fleet of nothing but real parts, beside the model's numbers. See __main__.py."""
