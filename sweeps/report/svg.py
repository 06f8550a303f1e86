"""Draw a figure as SVG that may share a page with others."""

from __future__ import annotations

import io
import re

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure


def inline_svg(name: str, figure: Figure, label: str) -> Markup:
    """Draw the figure as an SVG element with letters as outlines.

    Args:
        name: a word; all ids of the element begin with it, so that no two elements share one.
        label: describes the figure to those who cannot see it.

    Returns:
        The element; its style sets ``--width`` to the figure's width, for the page's style sheet.
    """
    # Lay the figure out only once: rounding makes each layout differ a little.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # A style element would apply to the whole page, and comments repeat the texts.
    for unwanted in (r"<!--.*?-->\s*", r"<style.*?</style>\s*", r"<metadata>.*?</metadata>\s*"):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    head, _, body = text.partition(">")
    view_box = re.search(r'viewBox="([^"]*)"', head)
    assert view_box, "matplotlib gives a view box"
    width = float(view_box[1].split()[2])
    start = Markup('<svg role="img" aria-label="{}" viewBox="{}" style="--width: {}pt">')
    return start.format(label, view_box[1], f"{width:g}") + Markup(body.rstrip())
