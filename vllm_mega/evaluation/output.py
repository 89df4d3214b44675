"""Writes a report: figures for programs, a page for people, every answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from vllm_mega.evaluation import plots, render
from vllm_mega.evaluation.page import page, title
from vllm_mega.evaluation.report import Report
from vllm_mega.output import write_json, write_whole


def write(report: Report, questions: list[dict[str, Any]], folder: Path) -> None:
    """Write into `folder`, each file whole: report.json, report.md, report.html, plots/, answers.jsonl.

    Args:
        report: what was found.
        questions: what stands beside the answers, one for each answer of every way.
        folder: made if it is not there.
    """
    (folder / render.PLOTS).mkdir(parents=True, exist_ok=True)
    answers = [
        {**question, "answers": {name: way.answers[n] for name, way in report.ways.items()}}
        for n, question in enumerate(questions)
    ]
    write_whole(folder / "answers.jsonl", b"".join(msgspec.json.encode(line) + b"\n" for line in answers))
    pictures = plots.draw(report)
    for picture in pictures.values():
        write_whole(folder / render.PLOTS / f"{picture.name}.svg", picture.svg)
        write_whole(folder / render.PLOTS / f"{picture.name}.png", picture.png)
    blocks = page(report, pictures)
    write_whole(folder / "report.md", render.markdown(blocks).encode())
    write_whole(folder / "report.html", render.html(title(report), blocks).encode())
    write_json(folder / "report.json", report.figures())
