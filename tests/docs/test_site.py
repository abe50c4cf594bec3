"""The site that `make docs` builds, where what builds it is installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_site_builds_strictly_and_asks_the_network_for_nothing(tmp_path) -> None:
    for tool in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(tool, reason="needs what `make docs` installs")
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet"]
    run = subprocess.run(
        [*build, str(DOCS), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    front = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert re.search(r'<div class="picture[^>]*>\s*<img', front), "no picture that can be scrolled"
    reference = (tmp_path / "reference/api.html").read_text(encoding="utf-8")
    assert 'Type<span class="colon">' not in reference, "a property's text was taken for its type"
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(list(DOCS.rglob("*.md")))
    for file in [*pages, *tmp_path.rglob("*.css")]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"""(src=|<link[^>]* href=|url\()["']?(https?:)?//""", text), file
