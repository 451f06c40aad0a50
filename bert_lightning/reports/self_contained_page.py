"""HTML pages that need no network and no other file, in one look: light, dark, on phones and in print."""

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bert_lightning.version import __version__

if TYPE_CHECKING:
    from markupsafe import Markup

# A line may break after these characters of a name, but not within a number or an escaped character.
_BREAKS = re.compile(r"([=./:-])(?=[^\W\d])")


def self_contained_page(
    template: str, heading: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = (), **values: object
) -> str:
    """Return a page as HTML.

    The policy of the page allows its own style and script, which it names by their digests, and nothing else. So no
    element may have an attribute `style` or `on...`.

    Args:
        template: file in `bert_lightning/reports` that extends `base.html.jinja` and fills its block `body`.
        heading: the title of the window; the template shows it too.
        styles: files with rules that follow those of `base.css.jinja`.
        scripts: files that are joined to one script. Without scripts, a page must show everything.
        values: what else the template needs.
    """
    from jinja2 import Environment, PackageLoader
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("bert_lightning.reports", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["breakable"] = _breakable

    def joined(files: Sequence[str]) -> str:
        return "\n".join(environment.get_template(name).render() for name in files)

    style, script = joined(["base.css.jinja", *styles]), joined(scripts)
    source = environment.get_template(template).render(
        heading=heading,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
        version=__version__,
        **values,
    )
    # File names may contain lone surrogates, which UTF-8 cannot encode.
    return source.encode("utf-8", "backslashreplace").decode()


def _breakable(text: str) -> "Markup":
    """Return a name as HTML in which lines may break after punctuation."""
    from markupsafe import Markup, escape

    return Markup(_BREAKS.sub(r"\1<wbr>", str(escape(text))))


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
