"""The scripts and styles of a page: the two libraries as they lie in the installed packages, and ours."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import circuitsvis
from plotly.offline import get_plotlyjs, get_plotlyjs_version

STATIC = Path(__file__).with_name("static")
SCRIPTS_FOLDER = "report_scripts"
"""Where linked libraries lie, beside the report."""
_FIRST = ("report", "tools")
"""The page's shell, and the tools of a folder: the others of their kind build on them."""
_SOURCE_MAP = re.compile(r"\n//# sourceMappingURL=\S*\s*$")
_COMMENTS = re.compile(r"^\s*(?://[^\n]*|/\*.*?\*/)\s*?\n", re.MULTILINE | re.DOTALL)
_INDENTATION = re.compile(r"^[ ]+", re.MULTILINE)
_SCRIPT_END = re.compile(r"</(?=script)", re.IGNORECASE)


@dataclass(frozen=True)
class Script:
    """One script.

    Attributes:
        name: Name of its file; of ours, as seen from `STATIC`.
        text: The code, safe inside a `<script>` element.
    """

    name: str
    text: str

    @property
    def digest(self) -> str:
        """What a Content-Security-Policy calls it: a browser runs inline scripts with these bytes and no others."""
        return f"'sha256-{base64.b64encode(hashlib.sha256(self.text.encode()).digest()).decode()}'"


@cache
def libraries() -> tuple[Script, ...]:
    """plotly.js and circuitsvis, from the installed packages."""
    bundle = Path(circuitsvis.__file__).parent / "dist" / "cdn" / "iife.js"
    return (
        Script(f"plotly-{get_plotlyjs_version()}.min.js", inlinable(get_plotlyjs())),
        Script(f"circuitsvis-{version('circuitsvis')}.js", inlinable(bundle.read_text(encoding="utf-8"))),
    )


def own_scripts() -> tuple[Script, ...]:
    """Ours, in the order in which they run."""
    return tuple(
        Script(path.relative_to(STATIC).as_posix(), inlinable(_bare(path.read_text(encoding="utf-8"))))
        for path in _static("js")
    )


def styles() -> str:
    """Our style sheets, one after the other."""
    return "\n".join(_bare(path.read_text(encoding="utf-8")) for path in _static("css"))


def _bare(code: str) -> str:
    """Our code without its indentation and the comments that stand on lines of their own: a third of it."""
    return _INDENTATION.sub("", _COMMENTS.sub("", code))


def _static(kind: str) -> list[Path]:
    """Our files of a kind: those outside the folders, then the folders', each time the `_FIRST` before the others.

    So what stands outside the folders, and the tools of its own folder, a script may use as it is read; anything else
    only once the page is there.
    """
    files = STATIC.rglob(f"*.{kind}")
    return sorted(files, key=lambda path: (len(path.parts), path.stem not in _FIRST, path.as_posix()))


def inlinable(code: str) -> str:
    r"""The same program in a form that can stand inside a `<script>` element.

    `</script` would end the element; it occurs in strings, where `<\/script` means the same. A link to a source map
    would be followed by a browser's developer tools. Line ends are those a browser hashes.

    Args:
        code: The program.

    Returns:
        The program.

    >>> inlinable("x = '</script>'\r\n//# sourceMappingURL=x.js.map\n")
    "x = '<\\/script>'"
    """
    return _SCRIPT_END.sub(r"<\\/", _SOURCE_MAP.sub("", code.replace("\r\n", "\n").replace("\r", "\n")))


def content_policy(inline: Sequence[Script], *, linked: bool) -> str:
    """The Content-Security-Policy of a page: no network, and no script but those given.

    Styles and pictures are made by the libraries as the page is used; they cannot leave it.

    Args:
        inline: The scripts that stand in the page.
        linked: Whether further scripts are linked, which lie beside the page.

    Returns:
        The policy.
    """
    scripts = " ".join([*(script.digest for script in inline), *(["'self'", "file:"] if linked else [])])
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
