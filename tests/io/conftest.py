"""Files are read on busy machines too: no test has a deadline."""

from hypothesis import settings

settings.register_profile("files", deadline=None)
settings.load_profile("files")
