"""What MkDocs does for this project: pages from outside docs/, and links to the sources.

The documents link to each other by their paths in the repository, so that they also work where
the repository is browsed. Here README.md, CONTRIBUTING.md and others outside docs/ become pages of
the site, and every other file that a page links to becomes a page with its text, so that the site
is complete without a repository on the web.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
"""Pages that lie outside docs/: path in the repository -> path in the site."""
LANGUAGES = {".py": "python", ".toml": "toml", ".proto": "protobuf", ".md": "markdown"}
LINK = re.compile(r"(\[([^\]\[]*)\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")
TITLE = re.compile(r"^# (.*)$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, and those of the files that pages link to."""
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, content=_read(path)))
    for notebook in sorted(ROOT.glob("notebooks/*.ipynb")):
        uri = f"notebooks/{notebook.stem}.md"
        files.append(File.generated(config, uri, content=_notebook(notebook)))
    linked = {
        target
        for file in list(files.documentation_pages())
        for target in _targets(file.content_string, _repository_path(file.src_uri))
    }
    for path in sorted(linked):
        files.append(File.generated(config, _uri(path), content=_source(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    uri = page.file.src_uri
    if page.parent is None:  # alone in its tab, or a source: the list of pages would be empty
        page.meta["hide"] = ["navigation"]
    if uri.startswith("source/"):
        return markdown
    here = _repository_path(uri)

    def in_site(link: re.Match[str]) -> str:
        target = _resolved(here, link[3])
        if not (ROOT / target).exists():
            return link[0]  # MkDocs reports it
        text: str = link[2]
        if text.endswith(".md") and (title := TITLE.search(_read(target))):
            text = title[1]  # "algorithms.md" says little in a site
        return f"[{text}]({posixpath.relpath(_uri(target), posixpath.dirname(uri) or '.')}{link[4]}"

    return LINK.sub(in_site, markdown)


def _targets(markdown: str, here: str) -> Iterator[str]:
    """Yield the files outside docs/ that a page links to, and that are no page of their own."""
    for link in LINK.finditer(markdown):
        target = _resolved(here, link[3])
        if (ROOT / target).exists() and _uri(target).startswith("source/"):
            yield target


def _repository_path(uri: str) -> str:
    """Return where a page of the site lies in the repository."""
    outside = {uri: path for path, uri in PAGES.items()}
    notebook = uri.startswith("notebooks/")
    return outside.get(uri) or (uri[: -len("md")] + "ipynb" if notebook else f"docs/{uri}")


def _uri(path: str) -> str:
    """Return where a file of the repository lies in the site."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("notebooks/") and path.endswith(".ipynb"):
        return path[: -len("ipynb")] + "md"
    return f"source/{path}.md"


def _resolved(here: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), link))


def _source(path: str) -> str:
    """Return a page with the text of a file, or with the names in a folder."""
    head = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# `{path}`\n\n"
    file = ROOT / path
    if file.is_dir():
        names = sorted(child.name for child in file.iterdir() if not child.name.startswith("_"))
        return head + "\n".join(f"- `{name}`" for name in names) + "\n"
    return head + _fenced(_read(path), LANGUAGES.get(file.suffix, "text"))


def _notebook(path: Path) -> str:
    """Return a notebook as a page: its text, its code and what the code printed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join(part for cell in cells for part in _cell(cell)) + "\n"


def _cell(cell: dict[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        yield source
        return
    yield _fenced(source, "python")
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            picture = "".join(data["image/png"]).replace("\n", "")
            yield f'<img alt="Output of the code above" src="data:image/png;base64,{picture}">'
        elif text := "".join(output.get("text", data.get("text/plain", ""))).strip("\n"):
            yield _fenced(text, "text")


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, *(len(ticks) + 1 for ticks in re.findall("`{3,}", text) or [""]))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
