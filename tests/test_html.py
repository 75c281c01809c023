"""The built book: every page is there, links lead somewhere, nothing loads from outside.

Skipped where no book is built. With DFDLIB_HTML=<folder> in the environment that folder has to be
there: `make book` runs it so after each build.
"""

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BUILT = Path(os.environ.get("DFDLIB_HTML", ROOT / "_build" / "html"))
# The theme leaves templates in _static.
PAGES = sorted(path for path in BUILT.rglob("*.html") if "_static" not in path.parts)
OUTSIDE = re.compile(r"(?:https?:)?//", re.IGNORECASE)

# What a browser fetches without being asked, by tag.
LOADS = {
    "script": ("src",), "link": ("href",), "img": ("src", "srcset"), "iframe": ("src",),
    "source": ("src", "srcset"), "video": ("src", "poster"), "audio": ("src",), "embed": ("src",),
    "object": ("data",), "use": ("href", "xlink:href"), "image": ("href", "xlink:href"),
}  # fmt: skip
# Of <link>, only these are fetched; rel="canonical", "next", … are not.
FETCHED = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "manifest"}


class Page(HTMLParser):
    """The anchors, links, loads and images of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.images: list[dict[str, str]] = []
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = {name: value or "" for name, value in attrs}
        self._inside = tag if tag in ("style", "script") else ""
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "meta" and found.get("http-equiv", "").lower() == "refresh":
            self.links.append(found["content"].partition("url=")[2])
        if tag != "link" or FETCHED & set(found.get("rel", "").split()):
            self.loads += [found[name] for name in LOADS.get(tag, ()) if name in found]
        if tag == "img":
            self.images.append(found)
        if "style" in found:
            self.styles.append(found["style"])

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "style":
            self.styles.append(data)
        elif self._inside == "script":
            self.scripts.append(data)


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf8"))


def outside_of_styles(text: str) -> list[str]:
    """Addresses elsewhere that a style sheet makes a browser fetch."""
    fetched = re.findall(r"""url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""", text)
    return [address for pair in fetched for address in pair if OUTSIDE.match(address)]


def outside(page: Page) -> list[str]:
    loads = [address for address in page.loads if OUTSIDE.match(address.strip())]
    return loads + [address for text in page.styles for address in outside_of_styles(text)]


def dead_links(path: Path, page: Page, anchors: dict[Path, set[str]]) -> list[str]:
    dead = []
    for link in [*page.links, *page.loads]:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
        if not target.exists():
            dead.append(f"{link}: no such file")
        elif parts.fragment and unquote(parts.fragment) not in anchors.get(target, set()):
            dead.append(f"{link}: no such anchor")
    return dead


@pytest.fixture(scope="module")
def anchors():
    return {path.resolve(): read(path).anchors for path in PAGES}


built = pytest.mark.skipif(
    not PAGES and "DFDLIB_HTML" not in os.environ, reason="no book is built: make book"
)
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(BUILT)))


@built
def test_every_page_of_the_table_of_contents_is_built():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    files = [toc["root"], *(page["file"] for part in toc["parts"] for page in part["chapters"])]
    missing = [
        name for name in ("index", "search", *files) if not (BUILT / f"{name}.html").is_file()
    ]
    assert not missing, f"not in {BUILT}: {missing}"


@each_page
def test_nothing_loads_from_outside(path):
    page = read(path)
    assert outside(page) == []
    # An address in a script would be fetched at a click; the book has none.
    assert not [text for text in page.scripts if re.search(r"https?://(?!www\.w3\.org)", text)]


@built
def test_no_style_sheet_loads_from_outside():
    sheets = {
        path: outside_of_styles(path.read_text(encoding="utf8")) for path in BUILT.rglob("*.css")
    }
    assert sheets
    assert {path: found for path, found in sheets.items() if found} == {}


@each_page
def test_links_lead_somewhere(path, anchors):
    assert dead_links(path, read(path), anchors) == []


@each_page
def test_every_image_has_alt_text(path):
    without = [image["src"] for image in read(path).images if not image.get("alt", "").strip()]
    assert without == []
    # Sphinx falls back on the file name, which says nothing.
    assert not [i["src"] for i in read(path).images if re.search(r"\.(png|svg|jpe?g)$", i["alt"])]


@built
def test_the_header_with_the_second_search_box_is_hidden():
    rules = (BUILT / "_static" / "custom.css").read_text(encoding="utf8")
    assert re.search(r"\.bd-header\.navbar\s*\{\s*display:\s*none", rules)
    assert any("custom.css" in load for load in read(BUILT / "search.html").loads)


# ------------------------------------------------------------------ the checks themselves


@pytest.mark.parametrize(
    "html",
    [
        '<script src="https://cdn.example/a.js"></script>',
        '<link rel="stylesheet" href="//cdn.example/a.css">',
        '<img src="http://example.org/a.png">',
        "<style>@import 'https://example.org/a.css';</style>",
        '<p style="background: url(https://example.org/a.png)">',
        "<style>@font-face { src: url('https://example.org/a.woff') }</style>",
    ],
)
def test_a_load_from_outside_is_found(html):
    assert outside(Page(html))


def test_a_link_elsewhere_is_no_load():
    html = '<a href="https://arxiv.org">a</a><link rel="canonical" href="https://a.org">'
    assert outside(Page(html + '<img src="a.png">')) == []


def test_dead_links_are_found(tmp_path):
    here, there = tmp_path / "here.html", tmp_path / "sub" / "there page.html"
    there.parent.mkdir()
    there.write_text('<h2 id="known">a</h2>')
    here.write_text(
        '<a href="sub/there%20page.html#known">1</a><a href="sub/there%20page.html#gone">2</a>'
        '<a href="gone.html">3</a><a href="#gone">4</a><a href="https://a.org/b">5</a>'
        '<a href="mailto:a@b.org">6</a><img src="gone.png">'
    )
    found = {path.resolve(): read(path).anchors for path in (here, there)}
    assert dead_links(here, read(here), found) == [
        "sub/there%20page.html#gone: no such anchor",
        "gone.html: no such file",
        "#gone: no such anchor",
        "gone.png: no such file",
    ]
