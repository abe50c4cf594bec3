"""What runs inside the serving engines: one package an engine; ``plugin`` is what it loads."""
