"""A figure as SVG may share a page with others."""

from __future__ import annotations

import re

from matplotlib.figure import Figure

from sweeps.report.svg import inline_svg


def a_figure() -> Figure:
    figure = Figure(figsize=(3, 2), layout="constrained")
    figure.subplots().plot([0, 1], [1, 2])
    return figure


def test_ids_are_of_the_figure_alone_and_every_reference_has_its_target() -> None:
    svg = inline_svg("arms", a_figure(), "label")
    ids = re.findall(r'\bid="([^"]*)"', svg)
    assert ids and len(set(ids)) == len(ids) and all(i.startswith("arms-") for i in ids)
    references = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', svg)
    assert references and {a or b for a, b in references} <= set(ids)


def test_nothing_of_it_applies_to_the_rest_of_the_page() -> None:
    svg = inline_svg("arms", a_figure(), "label")
    assert svg.startswith("<svg ") and svg.endswith("</svg>")
    for unwanted in ("<style", "<!--", "<metadata", "<?xml"):
        assert unwanted not in svg


def test_the_label_is_escaped_and_the_width_is_the_figures() -> None:
    svg = inline_svg("arms", a_figure(), '<b> & "c"')
    head = svg.partition(">")[0]
    assert 'aria-label="&lt;b&gt; &amp; &#34;c&#34;"' in head
    assert "--width: 216pt" in head  # 3 inches


def test_the_same_figure_gives_the_same_bytes() -> None:
    assert inline_svg("a", a_figure(), "label") == inline_svg("a", a_figure(), "label")
