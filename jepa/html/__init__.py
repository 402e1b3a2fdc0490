"""HTML reports: the page scaffold (Jinja base template, stylesheet, content security policy) and SVG charts.

Three rooms write reports: `jepa.pretrain.report`, `jepa.probes.evaluation.report` and `jepa.signals.report`. Each keeps
a template and its own geometry; what they have in common is here.
"""

from jepa.html.page import COLOURS, data_url, render_page

__all__ = ["COLOURS", "data_url", "render_page"]
