"""How tables are laid out: widths, folding, and what a terminal gets beyond a file or pipe."""

import io

import pytest

from evenload.report.tables import print_table


class Stream(io.StringIO):
    """Text for a terminal, or in an encoding."""

    def __init__(self, terminal=False, encoding="utf-8"):
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return self._terminal


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    return monkeypatch


def shown(heads, rows, stream=None, **how):
    stream = stream or Stream()
    print_table("title", heads, rows, ["a line", ("a quiet one", "2")], stream, **how)
    return stream.getvalue().split("\n")


def test_numbers_are_on_the_right_and_heads_end_on_one_line():
    assert shown(["", "two\nlines", "n"], [["a", "1\nmore", "22"], ["long", "3", "4"]]) == [
        "title",
        "",
        "         two",
        "       lines    n",
        "─────────────────",
        "a          1   22",
        "        more",
        "long       3    4",
        "",
        "a line",
        "a quiet one",
        "",
    ]


def test_wide_and_combining_characters_take_their_places():
    lines = shown(None, [["模型", "1"], ["e\u0301", "2"], ["plain", "3"]])
    assert lines[2:5] == ["模型    1", "e\u0301       2", "plain   3"]


def test_a_stream_without_the_line_gets_hyphens():
    assert "-------" in shown(["a", "b"], [["x", "yyy"]], Stream(encoding="ascii"))


def test_a_terminal_gets_bold_and_dim():
    lines = shown(["", "h"], [["a", "1\nmore"]], Stream(terminal=True), bold=1)
    assert lines[0] == "\x1b[1mtitle\x1b[0m"
    assert lines[2] == "       \x1b[1mh\x1b[0m"
    assert lines[4] == "a      \x1b[1m1\x1b[0m"
    assert lines[5] == "    \x1b[1;2mmore\x1b[0m"
    assert lines[-2] == "\x1b[2ma quiet one\x1b[0m"


@pytest.mark.parametrize(
    ("name", "value", "terminal", "styled"),
    [
        ("NO_COLOR", "1", True, False),
        ("TERM", "dumb", True, False),
        ("FORCE_COLOR", "1", False, True),
        ("COLUMNS", "40", False, False),
    ],
)
def test_who_gets_no_style(environment, name, value, terminal, styled):
    environment.setenv(name, value)
    lines = shown(["", "h"], [["a", "1"]], Stream(terminal=terminal))
    assert ("\x1b[" in "".join(lines)) == styled


def test_only_the_folded_column_is_broken():
    text = "every-4:joint,effort=fast,max_moves=4 and then some words"
    lines = shown(["name", "number"], [[text, "123"]], fold=0)
    body = lines[4:-4]
    assert max(map(len, lines)) <= 40
    assert body[0].endswith("   123")
    assert "".join(line.split("   ")[0].strip() for line in body).replace(" ", "") == text.replace(
        " ", ""
    )
    assert text in shown(["name", "number"], [[text, "123"]])[4]
