"""What the site is built from besides the pages in this folder: notebooks, studies of the repository, plotly's script.

Notebooks become pages of the site's own style: their code is highlighted and their headings are in the search. Figures
are stored in them as plotly's JSON and drawn by `javascripts/figures.js` with one shared copy of plotly's script.
Nothing is loaded from another host. (nbconvert's HTML would bring MathJax from one, and no plotly figures.)
"""

import html
import json
import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from plotly.offline import get_plotlyjs

ROOT = Path(__file__).parents[1]
STUDIES = "analyses"
PLOTLY = "application/vnd.plotly.v1+json"
NOTEBOOK_PAGES = {"quickstart.ipynb": "quickstart_notebook.md"}
"""A notebook becomes the page of its own name, unless another page has it."""
_PLACE = "notebook-output-{page}-{number}-place"
_outputs: dict[str, str] = {}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, the pages and pictures of the studies, and plotly's script."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = NOTEBOOK_PAGES.get(notebook.src_uri, notebook.src_uri.replace(".ipynb", ".md"))
        assert notebook.abs_src_path is not None, "a notebook is a file"
        content = notebook_page(Path(notebook.abs_src_path), notebook.src_uri)
        files.append(File.generated(config, page, content=content))
    for path in sorted((ROOT / STUDIES).rglob("*")):
        if path.suffix in {".md", ".svg"}:
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), content=path.read_text()))
    files.append(File.generated(config, "javascripts/plotly.min.js", content=get_plotlyjs()))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links that hold in the repository are made to hold in the site."""
    markdown = re.sub(r"\]\(([\w./]*?)(\w+\.ipynb)\)", lambda m: f"]({m[1]}{_page_of(m[2])})", markdown)
    return markdown.replace("](../analyses/", "](analyses/") if "/" not in page.file.src_uri else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Outputs of notebooks go into their places as they are, past the Markdown parser."""
    return re.sub(r"<p>(notebook-output-\S+?-place)</p>", lambda match: _outputs[match[1]], html)


def notebook_page(path: Path, name: str) -> str:
    """A notebook as Markdown, with a place for each output.

    Args:
        path: The notebook.
        name: Its name in the site.

    Returns:
        Markdown; the outputs are kept for `on_page_content`.
    """
    notebook = nbformat.read(path, as_version=4)
    parts = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        place = _PLACE.format(page=Path(name).stem, number=number)
        _outputs[place] = "\n".join(_output_html(output) for output in cell.outputs)
        parts.append(place)
    download = f'<p><a href="{Path(name).name}" download>Download this notebook</a></p>'
    return "\n\n".join([parts[0], download, *parts[1:]])


def _output_html(output: nbformat.NotebookNode) -> str:
    """An output as HTML: streams and plain text escaped, tables as they are, figures as JSON for the script."""
    if output.output_type == "stream":
        return f'<pre class="notebook-output">{html.escape(output.text)}</pre>'
    data = output.data
    if PLOTLY in data:
        return f'<div class="plotly-figure">{_json_in_script(data[PLOTLY])}</div>'
    if "text/html" in data:
        return f'<div class="notebook-output">{data["text/html"]}</div>'
    return f'<pre class="notebook-output">{html.escape(data["text/plain"])}</pre>'


def _json_in_script(value: object) -> str:
    """JSON that no text in it can end early."""
    text = json.dumps(value).replace("<", "\\u003c")
    return f'<script type="application/json">{text}</script>'


def _page_of(notebook: str) -> str:
    return NOTEBOOK_PAGES.get(notebook, notebook.replace(".ipynb", ".md"))
