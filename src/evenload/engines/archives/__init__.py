"""How the recordings of engines are read: torch's archives without running their pickles."""
