"""The page's HTML, all in one: texts, tables, style, script, plotly and the data."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from evenload.report.page.plain import to_plain
from evenload.report.page.sample import spaced_rule
from evenload.report.page.story import Story
from evenload.report.page.table import settings_tables, summary_table

_ASSETS = files("evenload.report.page") / "assets"
_SCRIPTS = ("data", "theme", "chart", "tradeoff", "balance", "moving", "loads", "hot", "main")


def safe_json(value: Any) -> str:
    """Write JSON that cannot end the script element it stands in.

    Raises
    ------
    ValueError
        For NaN or an infinite number, which JSON has not.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def safe_script(code: str) -> str:
    """Keep code from ending the script element it stands in; inside its texts this is the same."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _script() -> str:
    parts = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def document(story: Story) -> str:
    """Return the whole page.

    A policy of content security in it forbids every request, so that it stays as it is offline.
    """
    from plotly.offline import get_plotlyjs

    return Template(_asset("page.html")).substitute(
        title=escape(story.title),
        subtitle=escape(story.subtitle),
        answer=escape(story.answer),
        summary=summary_table(story),
        settings=settings_tables(story),
        points=escape(story.buckets.rule()),
        columns=escape(story.columns.rule().replace("point", "column")),
        slider=escape(spaced_rule(len(story.shown), len(story.windows))),
        style=_asset("page.css"),
        data=safe_json(to_plain(story)),
        plotly=safe_script(get_plotlyjs()),
        script=safe_script(_script()),
    )
