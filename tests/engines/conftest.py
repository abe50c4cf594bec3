"""What the tests beside the real engines share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PUBLISHED = Path(sys.prefix) / "published"


@pytest.fixture(scope="session")
def published() -> Path:
    """Folder with the unit tests that vLLM publishes; `make test-engines` puts it there."""
    assert PUBLISHED.is_dir(), "run `make test-engines`, which fetches vLLM's own tests"
    return PUBLISHED
