"""What names from outside may do to a terminal, a spreadsheet and a page: nothing."""

import csv
import io

from benchmark.errors import plain
from reports import render
from reports.page import write

EVIL = "a\x1b[2Jb\u202ec\r\nd\te"


def test_nothing_in_a_name_steers_a_terminal():
    shown = render.terminal(
        [render.Table(EVIL, [render.Column(EVIL, str)], [EVIL], notes=[EVIL])], EVIL
    )
    assert not {"\x1b", "\u202e", "\r", "\t"} & set(shown)
    assert plain("plain – σ², 0.5") == "plain – σ², 0.5"
    assert plain("two\nlines", "\n") == "two\nlines"


def test_no_field_of_a_csv_begins_a_formula():
    names = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", EVIL, "none"]
    text = render.comma_separated([{"source": name, "value": -0.25, "n": 3} for name in names])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["value"] for row in rows] == ["-0.25"] * 6  # numbers stay numbers
    assert [row["source"] for row in rows[:4]] == [f"'{name}" for name in names[:4]]
    assert not {"\x1b", "\u202e", "\r"} & set(text)
    assert rows[5]["source"] == "none"


def test_no_name_turns_a_line_of_a_page():
    template = write._environment().from_string("<b>{{ name }}</b>{{ note }}")
    shown = template.render(name=EVIL + "<i>", note="two\nlines")
    assert not {"\x1b", "\u202e", "\r"} & set(shown)
    assert "&lt;i&gt;" in shown
    assert shown.endswith("two\nlines")
