from __future__ import annotations

import html

import ibis
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ibis.backends.duckdb import Backend

from endcap.ingest.sources import cells


def cleaned(connection: Backend, *texts: str | None) -> list[str | None]:
    table = ibis.memtable(pa.table({"title": pa.array(texts, pa.string())}))
    found: list[str | None] = connection.to_pyarrow(cells.clean_title(table["title"])).to_pylist()
    return found


def test_titles_by_hand(connection: Backend) -> None:
    texts = {
        "Mug": "Mug", "A &amp; B": "A & B", "&#8211;&#x2013;&#X2013;&ndash;": "––––", "&amp;eacute;": "&eacute;",
        "caf&eacute;&hellip;": "café…", "a&nbsp;b \t c\n": "a b c", "AT&T; R&D": "AT&T; R&D", "&nothing;": "&nothing;",
        "&#0;&#xD800;&#99999999;": "&#0;&#xD800;&#99999999;", "&#128;": "€", "&amp": "&amp", "&nbsp;": None, "  ": None,
    }  # fmt: skip
    assert cleaned(connection, *texts, None) == [*texts.values(), None]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=20), max_size=20))
def test_what_was_escaped_is_read_again(connection: Backend, words: list[str]) -> None:
    known = [word for word in words if word not in cells.NOTHING]
    assert cleaned(connection, *(html.escape(word) for word in known)) == known


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("2.50", "2.5"),
        ("2.00", "2"),
        ("2.", "2"),
        ("-0.10", "-0.1"),
        ("200", "200"),
        ("1.2.30", "1.2.30"),
        ("v1.0", "v1.0"),
    ],
)
def test_numbers_without_idle_zeros(connection: Backend, raw: str, plain: str) -> None:
    table = ibis.memtable(pa.table({"number": [raw]}))
    assert connection.to_pyarrow(cells.plain_number(table["number"])).to_pylist() == [plain]
