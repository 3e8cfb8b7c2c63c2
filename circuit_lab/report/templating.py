"""The templates, and how they write numbers and names."""

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

_INDENTED_TAG = re.compile(r"\n\s+(?=<)")


def template(name: str) -> Template:
    """A template of `templates/`.

    Args:
        name: Its file; what is put into one that ends in .html is escaped.

    Returns:
        The template.
    """
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("circuit_lab.report"),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "words": words,
        "without_indentation": without_indentation,
    }
    environment.policies["json.dumps_kwargs"] = {
        "separators": (",", ":"),
        "ensure_ascii": False,
        "allow_nan": False,
    }
    return environment


def number(value: float | None) -> str:
    """A number for a table: three decimals, or four digits of a large one.

    >>> number(0.98765), number(12345.678), number(None)
    ('0.988', '12346', '–')
    """
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"


def signed(value: float | None) -> str:
    """A difference for a table.

    >>> signed(0.5), signed(-0.25)
    ('+0.500', '−0.250')
    """
    return "–" if value is None else f"{'−' if value < 0 else '+'}{number(abs(value))}"


def without_indentation(page: str) -> Markup:
    r"""Markup without the blanks before tags at the start of lines; a text from elsewhere has no tags.

    >>> without_indentation("<ul>\n  <li>a\n  b")
    Markup('<ul>\n<li>a\n  b')
    """
    return Markup(_INDENTED_TAG.sub("\n", page))


def words(name: object) -> str:
    """The name of a verdict, outcome or family in words.

    >>> words("second_hop_failure")
    'second hop failure'
    """
    return str(name).replace("_", " ")
