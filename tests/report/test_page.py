"""Pages: well-formed HTML whose links lead to the files, whatever these are called."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from stable_audio_tools.report.page import Page

VOID = {"meta", "img", "br", "link"}


class Parsed(HTMLParser):
    """Checks nesting on the way, and collects links and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


def test_a_page_with_everything(tmp_path: Path) -> None:
    page = Page(tmp_path / "deep" / "index.html", "A <title> & more")
    page.heading("First")
    page.heading("Small", level=3)
    page.paragraph("Type `sat demo --x <y>` & listen", is_note=True)
    page.table(["name", "share"], [["kick & snare", 0.5], ["x", 3]])
    page.image(tmp_path / "deep" / "loss.png", caption='the "loss"')
    page.clips([(tmp_path / "deep" / "a.wav", tmp_path / "deep" / "a.png", "a <b>"), (tmp_path / "b.wav", None, "b")])
    assert page.write() == tmp_path / "deep" / "index.html"
    parsed = Parsed(page.path)
    for text in ("A <title> & more", "First", "Small", "sat demo --x <y>", "kick & snare", "0.50", "3", "a <b>", "b"):
        assert text in parsed.texts
    assert parsed.links == ["loss.png", "a.png", "a.wav", "../b.wav"]
    assert parsed.tags.count("audio") == 2


@pytest.mark.parametrize("name", ["a b.wav", "kick:1.wav", "50%.wav", "a#b?c.wav", "q'\"<&>.wav", "\u00e9\u4e2d.wav", "back\\slash.wav"])
def test_links_lead_to_the_files_whatever_their_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "sounds").mkdir()
    file = tmp_path / "sounds" / name
    file.write_bytes(b"x")
    page = Page(tmp_path / "report" / "index.html", "x")
    page.clips([(file, None, name)])
    (link,) = Parsed(page.write()).links
    parts = urlsplit(link)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("", "", "", "")
    assert (page.path.parent / unquote(parts.path)).resolve().read_bytes() == b"x"


def test_names_that_are_not_unicode_do_not_stop_a_report(tmp_path: Path) -> None:
    file = tmp_path / b"caf\xe9.wav".decode("utf-8", "surrogateescape")
    page = Page(tmp_path / "index.html", "x")
    page.clips([(file, None, file.name)])
    assert Parsed(page.write()).links == ["caf%E9.wav"]


def test_a_page_moves_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links are relative, also when the page was named relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    page = Page("runs/index.html", "x")
    page.clips([(Path("runs/a/a.wav"), (tmp_path / "runs" / "a" / "a.png"), "x")])
    assert Parsed(page.write()).links == ["a/a.png", "a/a.wav"]


def test_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    """No scripts, nothing from the network: a page opens in ten years as it does today."""
    page = Page(tmp_path / "index.html", "x")
    page.clips([(tmp_path / "a.wav", None, "https://example.org is only text")])
    parsed = Parsed(page.write())
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    assert [link for link in parsed.links if "//" in link] == []
    assert "@import" not in page.path.read_text(encoding="utf-8")


def test_writing_again_gives_the_same_page(tmp_path: Path) -> None:
    page = Page(tmp_path / "index.html", "x")
    page.heading("y")
    first = page.write().read_bytes()
    assert page.write().read_bytes() == first
