"""Self-contained HTML pages: Jinja autoescaping, a content security policy with a script hash, light and dark themes.

A page loads nothing: no network, no font, no file beside it. Its content security policy forbids all of that and
lets one script run, which it names by SHA-256 (https://www.w3.org/TR/CSP3/). Every text that reaches a template is
escaped, so a script in a file name, a label or a policy stays text.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

from jepa.errors import require

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6bd6", "#8a8a00")
"""Okabe and Ito's palette, distinguishable by colour-blind readers, and two more ("Color Universal Design", 2008)."""


def render_page(
    package: str,
    name: str,
    extra: str,
    filters: Mapping[str, Callable[..., str]] | None = None,
    **values: Any,
) -> str:
    """A complete page from the template `assets/NAME.html.j2` of a package, which extends `base.html.j2`.

    `NAME.css` and `NAME.js` beside the template, where they exist, are put into the page after the common stylesheet
    and the theme switch. All scripts become one, because the policy names one hash.

    Args:
        package: the package that holds the folder `assets`, such as "jepa.pretrain".
        name: name of the template without its endings.
        extra: the extra of `jepa-video` that installs Jinja for this report.
        filters: further Jinja filters; `pct` (0.5 to 50 %), `f2` and `f3` (decimals) are always there.
        values: what the template reads; a name that it reads and does not get is an error.

    Raises:
        UserError: Jinja is not installed.

    Example:
        >>> page = render_page("jepa.html", "message", "train", title="a <b>", message="none")
        >>> "a &lt;b&gt;" in page and "default-src 'none'" in page
        True
    """
    require("jinja2", extra)
    import markupsafe

    environment = _environment(package)
    environment.filters.update(filters or {})
    script = _asset("jepa.html", "theme.js") + _asset(package, f"{name}.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text: str = environment.get_template(f"{name}.html.j2").render(
        **values,
        page_style=markupsafe.Markup(_asset("jepa.html", "base.css") + _asset(package, f"{name}.css")),
        page_script=markupsafe.Markup(script),
        page_script_hash=digest,
    )
    return text


def data_url(jpeg: bytes | None) -> str | None:
    """A JPEG picture as an address that a page can hold; None stays None.

    Example:
        >>> data_url(b"abc")
        'data:image/jpeg;base64,YWJj'
    """
    return None if jpeg is None else f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


@functools.cache
def _environment(package: str) -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, "assets") for name in (package, "jepa.html")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "pct": lambda p: f"{100 * p:.0f}\N{NO-BREAK SPACE}%",
        "f2": lambda value: f"{value:.2f}",
        "f3": lambda value: f"{value:.3f}",
    }
    return environment


@functools.cache
def _asset(package: str, name: str) -> str:
    path = resources.files(package).joinpath("assets", name)
    return path.read_text("utf-8") if path.is_file() else ""
