"""The frame of a page that stands by itself: its style, its head, and tables. It loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

STYLE = """
:root{--paper:#fff;--ink:#1c2430;--soft:#5c6675;--line:#d7dce3;--band:#dbe7dc;--main:#1f5fa8;--other:#a86a1f;
--kept:#1c7c3c;--broken:#b3261e;--quiet:#8a6d00;--unknown:#5c6675}
@media (prefers-color-scheme:dark){:root{--paper:#14181e;--ink:#e6eaf0;--soft:#9aa5b4;--line:#333b46;--band:#24402c;
--main:#6fb0ff;--other:#e0a458;--kept:#5fce83;--broken:#ff8a80;--quiet:#e5c453;--unknown:#9aa5b4}}
body{background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;
padding:0 1rem}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid var(--line)}
p.say{font-size:1.15rem}small,.soft{color:var(--soft)}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .8rem .25rem 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(20rem,1fr));gap:1rem}figure{margin:0}
figcaption{color:var(--soft);font-size:.9rem}svg{width:100%;height:auto}svg text{fill:var(--soft);font-size:11px}
.frame{fill:none;stroke:var(--line)}.bar{fill:var(--main);opacity:.75}.band{fill:var(--band)}polyline{fill:none}
polyline.main{stroke:var(--main);stroke-width:2}polyline.other{stroke:var(--other);stroke-width:1.5}
polyline.ideal{stroke:var(--soft);stroke-dasharray:4 4}circle.main{fill:var(--main)}circle.other{fill:var(--other)}
.kept{fill:var(--kept);color:var(--kept);stroke:var(--kept)}.broken{fill:var(--broken);color:var(--broken);
stroke:var(--broken)}.quiet{fill:var(--quiet);color:var(--quiet);stroke:var(--quiet)}.unknown{fill:var(--unknown);
color:var(--unknown);stroke:var(--unknown)}text.kept,text.broken,text.quiet,text.unknown{stroke:none}
.whisker{stroke-width:2}
"""


def page(title: str, parts: Sequence[str]) -> str:
    """A page of these parts, which are HTML already."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style></head><body>'
        + "\n".join([f"<h1>{escape(title)}</h1>", *parts])
        + "</body></html>\n"
    )


def facts_table(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and what is said of them."""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows)
    return f"<table>{cells}</table>"


def grid_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table with a head."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
