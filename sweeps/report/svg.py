"""A figure as part of a page: SVG that shares its document with others."""

from __future__ import annotations

import io
import re

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure


def inline_svg(name: str, figure: Figure, label: str) -> Markup:
    """The figure as an SVG element whose ids are its own, letters drawn as outlines.

    Args:
        name: a word; all ids begin with it.
        label: what is seen, for those who do not see it.

    Returns:
        Its ``--width`` is its own width, for the page's style.
    """
    # Laid out once: each further time it would differ, by rounding.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # A style element would hold for the whole page, and comments repeat the texts.
    for unwanted in (r"<!--.*?-->\s*", r"<style.*?</style>\s*", r"<metadata>.*?</metadata>\s*"):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    head, _, body = text.partition(">")
    found = re.search(r'viewBox="([^"]*)"', head)
    assert found, "matplotlib gives a view box"
    width = float(found[1].split()[2])
    start = Markup('<svg role="img" aria-label="{}" viewBox="{}" style="--width: {}pt">')
    return start.format(label, found[1], f"{width:g}") + Markup(body.rstrip())
