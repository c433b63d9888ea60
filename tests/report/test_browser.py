"""The pages in headless Chromium, inside a page that inspects them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fedsplit.config import Config
from fedsplit.report.write import write_report
from tests.report.examples import MANY, VARIANTS, write_comparison, write_run

pytestmark = pytest.mark.browser
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

# The framed pages have the origin of this page, so that it can inspect them.
WRAPPER = """<!DOCTYPE html><meta charset="utf-8"><body>
<iframe id="phone" style="width:375px;height:2000px;border:0" srcdoc="{page}"></iframe>
<iframe id="desktop" style="width:1280px;height:2000px;border:0" srcdoc="{page}"></iframe>
<script>
console.error("the console is seen");
function look(name) {{
  const frame = document.getElementById(name), page = frame.contentDocument;
  const size = (it) => [it.getBoundingClientRect().width, it.getBoundingClientRect().height];
  const all = (what) => [...page.querySelectorAll(what)];
  return {{
    requests: frame.contentWindow.performance.getEntriesByType("resource").map((it) => it.name),
    scroll: page.documentElement.scrollWidth,
    width: page.documentElement.clientWidth,
    headings: all("h1, body section > h2").map((it) => it.textContent),
    // What comes first: the numbers of the headline, pictures, tables, facts.
    order: all(".value, svg, table, #facts").map((it) => it.id || it.tagName.toLowerCase()),
    hints: all(".wide").map((it) => {{
      const box = it.querySelector(".scroll");
      const shown = frame.contentWindow.getComputedStyle(it.querySelector(".more")).display;
      return [box.scrollWidth > box.clientWidth + 1, shown !== "none"];
    }}),
    tables: all("table").map((it) => [it.caption.textContent, it.rows.length]),
    pictures: all("svg").map((it) => [it.getAttribute("aria-label"), ...size(it)]),
    captions: all("figcaption").length,
    cut: all("svg text").filter((it) => {{
      const box = it.getBoundingClientRect();
      return box.left < -1 || box.right > page.documentElement.clientWidth + 1;
    }}).map((it) => it.textContent),
    ink: frame.contentWindow.getComputedStyle(page.querySelector("svg text")).fill,
    paper: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
  }};
}}
addEventListener("load", () => {{
  const found = document.createElement("pre");
  found.id = "found";
  found.textContent = JSON.stringify({{phone: look("phone"), desktop: look("desktop")}});
  document.body.append(found);
}});
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on the PATH")
    return found


def open_page(browser: str, page: Path, folder: Path, *options: str) -> tuple[str, list[str]]:
    """Return the DOM of the loaded page, and its lines on the console."""
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            "--hide-scrollbars",
            *("--disable-background-networking", "--enable-logging=stderr", "--v=0"),
            *(f"--user-data-dir={folder}", "--window-size=1400,2000", *options),
            *("--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def look(browser: str, page: Path, folder: Path, *, dark: bool = False) -> dict[str, Any]:
    """Return what a page shows on a phone and on a desktop."""
    wrapper = folder / "wrapper.html"
    wrapper.write_text(WRAPPER.format(page=html.escape(page.read_text(encoding="utf-8"))))
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    dom, console = open_page(browser, wrapper, folder / "profile", scheme)
    assert [line for line in console if "the console is seen" not in line] == []
    assert len(console) == 1  # so errors would show too
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None
    seen: dict[str, Any] = json.loads(html.unescape(found[1]))
    return seen


def check(seen: dict[str, Any], *, pictures: int, tables: int) -> None:
    """Check what must hold for every page at every width."""
    for width, name in ((375, "phone"), (1280, "desktop")):
        at = seen[name]
        assert at["requests"] == []
        assert at["scroll"] <= at["width"] <= width, name  # the page never scrolls sideways
        assert at["cut"] == [], name
        assert len(at["pictures"]) == at["captions"] == pictures
        for alt, *size in at["pictures"]:
            assert alt
            assert min(size) > 40
            assert size[0] > 300
        assert len(at["tables"]) == tables
        assert all(caption and rows > 1 for caption, rows in at["tables"])
        assert all(scrolls == said for scrolls, said in at["hints"])
        places = [["dd", "svg", "table", "facts"].index(what) for what in at["order"]]
        assert places == sorted(places)
        assert {0, 1, 2, 3} == set(places)
    assert any(scrolls for scrolls, _ in seen["phone"]["hints"])


@pytest.mark.parametrize("variants", [VARIANTS, MANY], ids=["three", "eleven"])
def test_a_comparisons_page(
    browser: str, tmp_path: Path, variants: dict[str, dict[str, Any]]
) -> None:
    directory = tmp_path / "example"
    directory.mkdir()
    failed = f"iid-{next(iter(variants))}-seed1"
    *_, page = write_report(write_comparison(directory, variants=variants, failed=[failed]))
    seen = look(browser, page, tmp_path)
    # Where a run is missing, bytes differ between settings: each setting has a table.
    check(seen, pictures=13, tables=9 if variants is MANY else 10)
    first, *headings = seen["phone"]["headings"]
    assert (first, headings[2:]) == (
        "example",
        ["Accuracy", "Traffic", "Client and server", "Shards", "Tables", "Facts"],
    )
    assert all("is the most accurate variant" in heading for heading in headings[:2])
    assert seen["phone"]["width"] == 375
    dom, _ = open_page(browser, page, tmp_path / "profile")  # opened from its file, as people do
    assert "<h1>example</h1>" in dom
    assert "Every participant of round 1 failed." in dom


def test_text_in_pictures_follows_the_scheme(browser: str, tmp_path: Path) -> None:
    config = Config.load({"output-dir": str(tmp_path), "run-name": "one"})
    *_, page = write_report(write_run(config).path)
    light, dark = (look(browser, page, tmp_path, dark=dark) for dark in (False, True))
    for seen in (light, dark):
        check(seen, pictures=4, tables=2)
        for place in seen.values():
            assert contrast(place["ink"], place["paper"]) > 4.5
    assert light["phone"]["paper"] == "rgb(255, 255, 255)"
    assert luminance(dark["phone"]["paper"]) < 0.05


def luminance(colour: str) -> float:
    """Return the relative luminance of ``rgb(r, g, b)``, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, as WCAG 2 defines it."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)
