"""evenload inside serving engines: one thin file per engine, and what they share."""
