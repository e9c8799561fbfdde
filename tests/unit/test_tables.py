"""Tables: what they show, and that nothing in them is more than text."""

from __future__ import annotations

from dataclasses import dataclass
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.faces.preview import preview
from timbr_wamp.tables import (
    CELL_LIMIT,
    ROWS_LIMIT,
    Cell,
    StatusTable,
    collapsible,
    count_cell,
    duration,
    printable,
    timestamp,
)

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>\x1b[31m\u202e\ud800"


class Page(HTMLParser):
    """Collect tags, attributes and texts of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@dataclass
class Thing:
    name: str
    count: int


class Rude:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def test_rows_are_sequences_mappings_and_objects() -> None:
    table = StatusTable(["name", "count"], "things", rows=[("a", 1)])
    table.add({"count": 22, "name": "b"})
    table.add(Thing("c", 333))
    assert str(table) == "things\nname  count\na         1\nb        22\nc       333"
    page = Page(table._repr_html_())
    assert page.texts == ["things", "name", "count", "a", "1", "b", "22", "c", "333"]
    assert len(table) == 3


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="1 cells for 2 columns"):
        StatusTable(["a", "b"]).add(["one"])


def test_an_empty_table_says_so() -> None:
    table = StatusTable(["a"], "title", empty="nothing yet")
    assert str(table) == "title\nnothing yet"
    assert Page(table._repr_html_()).texts == ["title", "nothing yet"]


def test_a_table_prints_as_text_and_views_as_escaped_html() -> None:
    table = StatusTable([("f0", EVIL)], headers=["slot", "text"])
    assert repr(table) == str(table)
    view = table.table_view()
    assert view == view._repr_html_() == table._repr_html_()
    assert "script" not in Page(view).tags
    assert str(table).startswith("slot  text\nf0 ")


def test_headers_title_and_empty_text_may_be_of_any_type() -> None:
    table = StatusTable([1, None, Rude()], 7, rows=[("a", "b", "c")])  # type: ignore[arg-type]
    for shown in (repr(table), table._repr_html_(), repr(StatusTable(empty=7))):  # type: ignore[arg-type]
        assert shown


def test_columns_of_nothing_are_left_out_when_asked() -> None:
    rows = [("f0", None, 1), ("f1", "", 2)]
    assert str(StatusTable(["slot", "name", "n"], rows=rows, hide_empty=True)) == "slot  n\nf0    1\nf1    2"
    assert "name" in str(StatusTable(["slot", "name", "n"], rows=rows))


def test_links_are_shortened_and_only_the_web_is_linked() -> None:
    url = "https://example.org/a/long/path?q=1&r=2"
    page = Page(StatusTable(["link"], rows=[(url,)])._repr_html_())
    assert ("href", url) in page.attributes
    assert ("rel", "noopener") in page.attributes
    assert f"...{url[-10:]}" in page.texts
    assert url in str(StatusTable(["link"], rows=[(url,)])), "a terminal shows it whole"
    assert url in Page(StatusTable(["link"], abrv_links=False, rows=[(url,)])._repr_html_()).texts
    for text in (
        "javascript:alert(1)",
        "data:text/html,x",
        "https://",
        "see https://x.org",
        'https://x"onclick=',
        "//x",
    ):
        assert "a" not in Page(StatusTable(["link"], rows=[(text,)])._repr_html_()).tags, text


def test_cell_padding_and_colours() -> None:
    html = StatusTable(["a"], cell_padding=11, rows=[(1,)])._repr_html_()
    assert "padding:11px" in html
    assert "color:inherit" in html


def test_rows_and_cells_are_bounded_and_it_is_said() -> None:
    table = StatusTable(["n"], rows=[(f"row {n}",) for n in range(ROWS_LIMIT + 3)])
    assert "… and 3 rows before these" in str(table)
    assert "row 2" not in Page(table._repr_html_()).texts
    assert f"row {ROWS_LIMIT + 2}" in Page(table._repr_html_()).texts
    assert len(str(StatusTable(rows=[("x" * 10_000,)]))) == CELL_LIMIT


def test_wide_characters_keep_the_columns_straight() -> None:
    lines = str(StatusTable(["a", "b"], rows=[("日本", "x"), ("abcd", "y")])).splitlines()
    assert lines[1:] == ["日本  x", "abcd  y"]


def test_a_cell_whose_text_raises_says_so() -> None:
    assert "its text raised RuntimeError" in str(StatusTable(rows=[(Rude(),)]))
    assert "its repr raised RuntimeError" in preview(Rude())


@given(st.text(max_size=300) | st.just(EVIL) | st.from_regex(r"https?://.{0,40}", fullmatch=True), st.booleans())
def test_no_text_becomes_markup(text: str, short: bool) -> None:
    table = StatusTable([text], text, abrv_links=short, rows=[(text,), (Cell(text),)])
    table.add((Cell(text, collapsible(text, text)),))
    html = table._repr_html_()
    page = Page(html)
    assert set(page.tags) <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "a", "details", "summary", "pre"}
    assert {name for name, _ in page.attributes} <= {"style", "href", "title", "target", "rel"}
    links = [value or "" for name, value in page.attributes if name == "href"]
    assert all(link.lower().startswith(("http://", "https://")) for link in links)
    html.encode()  # no half of a surrogate pair
    for line in str(table).splitlines():
        assert line.isprintable() or "\u200d" in line


def test_what_would_fool_a_terminal_is_shown_as_its_escape() -> None:
    assert printable(EVIL, 500).endswith(r"\x1b[31m\u202e\ud800")
    assert printable("a\n\tb\x00", lines=True) == "a\n\tb\\x00"


def test_texts_of_times_and_counts() -> None:
    assert (duration(None), duration(0), duration(float("nan"))) == ("", "0 µs", "")
    assert (timestamp(None), timestamp(0), timestamp(1e30)) == ("", "", "1e+30")
    assert (count_cell(None).text, count_cell(1234567).text) == ("", "1,234,567")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1,), "(1,)"),
        ({}, "{}"),
        (set(), "set()"),
        ({"a": [1, {"b": (2, 3)}]}, "{'a': [1, {'b': (2, 3)}]}"),
        ([[[[[1]]]]], "[[[[[…]]]]]"),
        (1 << 9999, "<int of 10,000 bits>"),
        (memoryview(b"abc"), "<memoryview of 3 bytes>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_previews(value: object, text: str) -> None:
    assert preview(value) == text


def test_a_preview_looks_at_no_more_than_it_shows() -> None:
    class Counted(list):  # type: ignore[type-arg]
        seen = 0

        def __iter__(self):  # type: ignore[no-untyped-def]
            for item in super().__iter__():
                Counted.seen += 1
                yield item

    assert len(preview(Counted(range(1_000_000)), 100)) <= 100
    assert 0 < Counted.seen < 50
    assert len(preview({"k": "x" * 10_000_000, "b": b"y" * 10_000_000}, 100)) == 100


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner),
)


@given(values, st.integers(min_value=10, max_value=200))
def test_a_preview_is_the_begin_of_the_repr_and_bounded(value: object, limit: int) -> None:
    text = preview(value, limit)
    assert len(text) <= limit
    if "…" not in text and not text.startswith("<int") and "of " not in text:
        assert text == repr(value)
