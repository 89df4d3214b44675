"""Blocks of a page as Markdown and as one HTML file that needs nothing else. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from vllm_mega.evaluation.plots import Plot


class Heading(NamedTuple):
    """Begins a section."""

    text: str
    level: int = 2


class Words(NamedTuple):
    """A paragraph."""

    text: str


class Points(NamedTuple):
    """A list."""

    texts: Sequence[str]


class Tile(NamedTuple):
    """A figure that matters."""

    value: str
    label: str
    note: str = ""


class Tiles(NamedTuple):
    """The figures that matter most, side by side."""

    tiles: Sequence[Tile]


class Table(NamedTuple):
    """Rows of cells; the first column is words, the others are figures."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()
    """Rows that are ours."""
    foreign: Sequence[int] = ()
    """Columns of another model: never strong."""


Block = Heading | Words | Points | Tiles | Table | Plot
PLOTS = "plots"
"""Folder of the plots' files, beside the page."""


def markdown(blocks: Sequence[Block]) -> str:
    """The page in Markdown; plots are files in `PLOTS`."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Words(text):
            return text
        case Points(texts):
            return "\n".join(f"- {_line(text)}" for text in texts)
        case Tiles(tiles):
            rows = [[tile.label, tile.value, tile.note] for tile in tiles]
            return _markdown(Table(["at a glance", "", ""], rows))
        case Table(columns, rows, strong, foreign):
            marked = [
                [
                    f"**{cell}**" if cell and n in strong and i not in foreign else cell
                    for i, cell in enumerate(row)
                ]
                for n, row in enumerate(rows)
            ]
            lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *marked]
            return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)
        case Plot(name, caption):
            return f"![{caption}]({PLOTS}/{name}.svg)"


def _line(text: str) -> str:
    """`text` in one line, never HTML."""
    return " ".join(text.split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def html(title: str, blocks: Sequence[Block]) -> str:
    """The page in HTML; every text is escaped, plots are inside."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n{body}\n"
        "</main>\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Words(text):
            return f"<p>{escape(text)}</p>"
        case Points(texts):
            return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"
        case Tiles(tiles):
            return f'<div class="tiles">{"".join(map(_tile, tiles))}</div>'
        case Table(columns, rows, strong, foreign):
            head = _row("th", columns, foreign)
            lines = "".join(_row("td", row, foreign, ours=n in strong) for n, row in enumerate(rows))
            return f'<div class="wide"><table><thead>{head}</thead><tbody>{lines}</tbody></table></div>'
        case Plot(_, caption, svg):
            encoded = base64.b64encode(svg).decode()
            text = escape(caption)
            return (
                f'<figure><img alt="{text}" src="data:image/svg+xml;base64,{encoded}">'
                f"<figcaption>{text}</figcaption></figure>"
            )


def _tile(tile: Tile) -> str:
    value, label, note = map(escape, tile)
    return f'<div class="tile"><b>{value}</b><span>{label}</span><small>{note}</small></div>'


def _row(tag: str, row: Sequence[str], foreign: Sequence[int], *, ours: bool = False) -> str:
    begin = [f'<{tag} class="foreign">' if i in foreign else f"<{tag}>" for i in range(len(row))]
    cells = "".join(f"{opening}{escape(cell)}</{tag}>" for opening, cell in zip(begin, row, strict=True))
    return f'<tr class="ours">{cells}</tr>' if ours else f"<tr>{cells}</tr>"


CSS = """
:root { color-scheme: light; --ink: #1d2530; --soft: #5c6675; --line: #e1e6ed; --blue: #1f6fb2; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f8fa; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 2rem 4rem; background: #fff; min-height: 100vh; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
p, li { max-width: 50rem; }
p, figcaption { color: var(--soft); }
li { margin: .2rem 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: .8rem;
  margin: 1.4rem 0; }
.tile { border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.5rem; color: var(--blue); font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: .92rem; }
.tile small { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums;
  margin: .6rem 0 1rem; }
th { text-align: right; font-weight: 600; color: var(--soft); border-bottom: 2px solid var(--line);
  padding: .4rem .7rem; vertical-align: bottom; }
td { text-align: right; border-bottom: 1px solid var(--line); padding: .4rem .7rem; }
th:first-child, td:first-child { text-align: left; padding-left: .3rem; }
tr.ours td { background: #eef5fb; font-weight: 600; }
th.foreign, td.foreign, tr.ours td.foreign { color: #8a94a3; font-weight: 400; font-style: italic; }
figure { margin: 1.2rem 0; }
figure img { width: 100%; max-width: 46rem; height: auto; display: block; }
figcaption { font-size: .88rem; }
@media print { body { background: #fff; } main { padding: 0; } h2 { break-after: avoid; } }
"""
