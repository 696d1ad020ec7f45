"""The pages of the small shop: whole, escaped, without network or raw ids."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from endcap.contracts.events import BATCHES, EVENTS, ITEMS, LANDED, QUARANTINE
from endcap.contracts.reporting import Silent
from endcap.monitoring.drift import measure_drift
from endcap.monitoring.profile import profile_table
from endcap.monitoring.profile_page import duration, write_profile
from endcap.workspace.layout import Workspace

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Collects tags with attributes and the visible text, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and not {"style", "title"} & set(self.open):
            self.words.append(data.strip())


@pytest.fixture(scope="module")
def pages(shop: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Texts of all pages, drift measured before."""
    path = tmp_path_factory.mktemp("pages") / "shop"
    shutil.copytree(shop.path, path)
    workspace = Workspace.open(path)
    measure_drift(workspace, Silent(), first=date(2020, 1, 2), last=date(2020, 1, 3))
    for name in (EVENTS, ITEMS, LANDED, QUARANTINE, BATCHES):
        page = write_profile(workspace, profile_table(workspace, name, Silent()))
        assert page == workspace.reports / "profiles" / f"{name}-v0.html"
    return {found.name: found.read_text("utf-8") for found in page.parent.glob("*.html")}


def test_one_page_a_table_and_an_index(pages: dict[str, str]) -> None:
    assert sorted(pages) == [
        "batches-v0.html", "events-v0.html", "index.html", "items-v0.html", "landed-v0.html", "quarantine-v0.html"
    ]  # fmt: skip
    index = Page(pages["index.html"])
    links = [attributes["href"] for tag, attributes in index.tags if tag == "a"]
    assert sorted(str(link) for link in links) == [name for name in sorted(pages) if name != "index.html"]
    assert "Dataset of test" in index.text


def test_pages_need_nothing_from_elsewhere(pages: dict[str, str]) -> None:
    for text in pages.values():
        page = Page(text)
        assert not re.search(r"https?:|//[a-z]|@import|javascript:", text)
        assert not {"script", "link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
        for tag, attributes in page.tags:
            assert not [name for name in attributes if name.startswith("on")], tag
            target = str(attributes.get("href", "#"))
            assert target.startswith("#") or target in pages
        ids = re.findall(r'\bid="([^"]*)"', text)
        assert len(set(ids)) == len(ids)
        assert "prefers-color-scheme: dark" in text


def test_titles_are_text_and_people_are_hashed(pages: dict[str, str]) -> None:
    assert "<script" not in "".join(pages.values())
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; co" in pages["landed-v0.html"]
    assert "anna" not in "".join(pages.values())


def test_figures_are_on_the_page(pages: dict[str, str]) -> None:
    text = Page(pages["events-v0.html"]).text
    for expected in (
        "6 rows in 3 files",
        "2020-01-01 to 2020-01-03",
        "Events on unknown items 20.0%",
        "1 events; items that no catalog names: 1",
        "1 of 7 landed rows: median 1.0 h",
        "Where the rows went adds up",
        "rows read 11",
        "good: view_item 4",
        "quarantine: no user 2",
        "of bot-like users 1",
        "min 2.5",
        "2020-01-01 01:00:00",
        "3 distinct values",
    ):
        assert expected in text, expected


def test_plots_have_words_and_the_pages_colours(pages: dict[str, str]) -> None:
    page = Page(pages["events-v0.html"])
    figures = [attributes["aria-label"] for tag, attributes in page.tags if tag == "figure"]
    assert figures[:3] == ["Rows per day", "Sessions per day", "Events per session"]
    assert "PSI of purchase by day" in figures
    assert "Lag from event to table, by hour of the event" in figures
    assert "Rows per hour" in figures
    assert "view_item.item_id" in figures
    headings = ("Jensen–Shannon by day", "Unseen values by day", "By hour,", "PSI by hour")
    assert all(heading in page.text for heading in headings), page.text
    described = [str(attributes["aria-label"]) for tag, attributes in page.tags if attributes.get("role") == "img"]
    assert len(described) == len(figures)
    assert "most on 2020-01-01: 3" in described[0]
    assert not re.search(r"#0[1-3]0[1-3]0[1-3]|#1100", pages["events-v0.html"])


def test_the_drift_section_comes_with_numbers_alone(shop: Workspace, tmp_path: Path, pages: dict[str, str]) -> None:
    assert "0:2019-12-06/2020-01-02" in Page(pages["events-v0.html"]).text
    shutil.copytree(shop.path, tmp_path / "shop")
    workspace = Workspace.open(tmp_path / "shop")
    page = write_profile(workspace, profile_table(workspace, EVENTS, Silent()))
    assert "<h2>Drift</h2>" not in page.read_text("utf-8")


def test_equal_data_give_equal_bytes_and_a_lost_profile_is_named(shop: Workspace, tmp_path: Path) -> None:
    shutil.copytree(shop.path, tmp_path / "shop")
    workspace = Workspace.open(tmp_path / "shop")
    page = write_profile(workspace, profile_table(workspace, ITEMS, Silent()))
    before = page.read_bytes()
    assert write_profile(workspace, profile_table(workspace, ITEMS, Silent())).read_bytes() == before
    page.with_suffix(".json").write_text("{")
    write_profile(workspace, profile_table(workspace, BATCHES, Silent()))
    index = Page((page.parent / "index.html").read_text("utf-8")).text
    assert "no profile of this version: endcap profile --table items" in index


def test_versions_out_of_force_are_listed_apart(
    workspace: Workspace, write_tables: Callable[..., dict[str, int]], make_event: Callable[..., dict[str, Any]]
) -> None:
    write_tables(workspace, {EVENTS: [make_event(0, 0)]})
    write_tables(workspace, {EVENTS: [make_event(0, 0), make_event(1, 5, event_type="a&b")]})
    for version in (0, 1):
        page = write_profile(workspace, profile_table(workspace, EVENTS, Silent(), version=version))
    index = (page.parent / "index.html").read_text("utf-8")
    assert index.index("Tables in force") < index.index("events-v1.html") < index.index("Other versions")
    assert index.index("Other versions") < index.index("events-v0.html")


def test_an_empty_table_has_a_page(workspace: Workspace, write_tables: Callable[..., dict[str, int]]) -> None:
    write_tables(workspace, {EVENTS: [], BATCHES: []})
    for name in (EVENTS, BATCHES):
        assert (
            "0 rows" in Page(write_profile(workspace, profile_table(workspace, name, Silent())).read_text("utf-8")).text
        )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12, "12\u202fs"), (90, "1.5\u202fmin"), (7200, "2.0\u202fh"), (400 * 86_400, "400.0\u202fdays")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
