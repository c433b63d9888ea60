"""The documentation site builds, is complete, and fetches nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fedsplit

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does, without a network; return its folder."""
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_it_builds_strictly(site: Path) -> None:
    """Break it: link to a page or a heading that there is not, or leave a page out of the nav."""
    assert (site / "index.html").is_file()


def test_its_first_page_is_the_readme(site: Path) -> None:
    """Break it: leave README.md out of `PAGES` in docs/hooks.py."""
    title = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    assert title in (site / "index.html").read_text(encoding="utf-8")


def test_no_page_fetches_anything(site: Path) -> None:
    """Break it: remove `font: false` from mkdocs.yml."""
    fetched = re.compile(
        r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(https?:[^\"\s>]+)"
        r"|<link(?![^>]*rel=\"?canonical)[^>]*\shref=\"?(https?:[^\"\s>]+)"
    )
    styled = re.compile(r"url\([\"']?(https?:[^\"')]+)")
    pages = [(page, fetched) for page in site.rglob("*.html")]
    sheets = [(sheet, styled) for sheet in site.rglob("*.css")]
    assert len(pages) > 20
    found = {
        (file.name, *match.groups())
        for file, pattern in (*pages, *sheets)
        for match in pattern.finditer(file.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_the_reference_has_every_public_name(site: Path) -> None:
    """Break it: remove a name from docs/api.md."""
    page = (site / "api.html").read_text(encoding="utf-8")
    assert [name for name in fedsplit.__all__ if f'id="fedsplit.{name}"' not in page] == []


def test_links_to_sources_lead_to_pages_of_the_site(site: Path) -> None:
    """Break it: return the link unchanged in `on_page_markdown` of docs/hooks.py."""
    page = (site / "algorithms.html").read_text(encoding="utf-8")
    (target,) = set(re.findall(r'href="(source/strategies/sflv2\.py[^"#]*)"', page))
    assert "class SFLV2" in re.sub(r"<[^>]+>", "", (site / target).read_text(encoding="utf-8"))
