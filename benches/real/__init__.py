"""A fleet made only of real parts, compared with the model. See __main__.py."""
