"""What the serving engines need: their files, and the plug-ins that run inside them.

One package an engine. A module in it that has a ``FORMAT`` is a file format of that engine, found
by `evenload.formats.known_formats`; ``plugin`` is what the engine loads.
"""
