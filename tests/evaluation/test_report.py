"""From a whole study, with a model whose answers are known, to the files of a report."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.evaluation.fakes import items, subject
from vllm_mega.evaluation import output, page, plots, render
from vllm_mega.evaluation.data import Choice, Compositional
from vllm_mega.evaluation.model import Baselines
from vllm_mega.evaluation.report import Baseline, NullRoute, Report
from vllm_mega.evaluation.study import Material, measure

Measured = tuple[Report, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("study")
    some = items()
    first, last, joint = folder / "1", folder / "3", folder / "joint"
    baselines = Baselines(
        {0: first, 2: last},
        joint,
        {"sequential_lora": Baseline(2, 20, 0.1, 3.0, 4000), "joint_lora": Baseline(6, 30, 0.2, 4.0, 12000)},
    )
    who = subject(folder / "bank", {first: some[0].text, joint: some[1].text}, baselines=baselines)
    material = Material(
        some,
        [Choice("zzz qqq?", ("one", "two or three"), "one")],
        ["Nobody knows."],
        ["zzz qqq"],
        [Compositional(("kiln", "ferry"), f"{some[0].text} {some[1].text}", ("Mirela", "oxen"))],
    )
    return measure(material, who, lambda _question, golds, reply: golds[0] in reply, lambda _: None)


def test_report_json_has_every_figure(measured: Measured) -> None:
    found = measured[0].figures()
    ways = {
        "base", "rag_top1", "rag_top3", "direct", "irag", "text", "both", "top1_adapter",
        "sequential_lora", "joint_lora",
    }  # fmt: skip
    assert found["n_memories"] == 3
    assert set(found["qa"]) == set(found["qa_lenient"]) == set(found["qa_judge"]) == ways
    assert found["qa"]["direct"] == found["qa_judge"]["direct"] == 1.0
    assert found["qa"]["joint_lora"] == pytest.approx(1 / 3)
    assert (found["recall"]["cosine"], found["recall"]["exact"]) == (pytest.approx(1.0), 1.0)
    assert found["recall"]["by_way"]["sequential_lora"]["exact"] == 0.0
    assert found["gate"]["top1"] == found["gate"]["mrr"] == 1.0
    assert (found["null_route"]["opened"], found["null_route"]["identical"]) == (0.0, True)
    assert set(found["compositional"]["qa"]) == (
        ways - {"rag_top1", "rag_top3", "text", "both", "top1_adapter"}
    ) | {"rag_top2"}
    assert "ways" not in found["compositional"]
    assert [one["after"] for one in found["forgetting"]] == [0, 1, 2]
    assert found["forgetting"][0]["sequential_lora_exact"] == 1.0
    assert found["forgetting"][2]["sequential_lora_exact"] == 0.0
    assert set(found["general"]) == {"base", "gated", "forced", "sequential_lora", "joint_lora"}
    assert found["cost"]["share_of_base"] == found["cost"]["bytes_per_memory"] / 10**6
    assert found["cost"]["baselines"]["joint_lora"]["rank"] == 6
    assert set(found["cost"]["latency_ms"]) == {
        "base", "rag_top1", "direct", "irag", "text", "both", "joint_lora",
    }  # fmt: skip
    assert found["settings"]["gate"]["top_k"] == 2


def test_what_was_not_asked_is_left_out(tmp_path: Path) -> None:
    material = Material(items(), [Choice("zzz?", ("one", "two"), "one")], ["Nobody knows."])
    found, _ = measure(material, subject(tmp_path / "bank"), None, lambda _: None)
    figures = found.figures()
    assert figures["null_route"] is figures["compositional"] is None
    assert "qa_judge" not in figures
    assert "joint_lora" not in figures["qa"]
    assert figures["forgetting"][0]["sequential_lora_cosine"] is None
    output.write(found, [], tmp_path / "report")
    text = (tmp_path / "report" / "report.md").read_text()
    assert "two memories" not in text
    assert "unrelated" not in text.partition("## ")[0]


def test_the_files(measured: Measured, tmp_path: Path) -> None:
    found, questions = measured
    output.write(found, questions, tmp_path / "report")
    files = {str(p.relative_to(tmp_path / "report")) for p in (tmp_path / "report").rglob("*.*")}
    assert files == {
        "report.json", "report.md", "report.html", "answers.jsonl",
        *(f"plots/{name}.{kind}" for name in ("forgetting", "scores", "bytes") for kind in ("svg", "png")),
    }  # fmt: skip
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == found.figures()
    lines = [json.loads(line) for line in (tmp_path / "report" / "answers.jsonl").read_text().splitlines()]
    assert [(line["memory"], line["rank"]) for line in lines] == [("kiln", 1), ("ferry", 1), ("chess", 1)]
    assert lines[0]["answers"]["direct"] == items()[0].text
    linked = re.findall(r"!\[[^]]*\]\((\S+)\)", (tmp_path / "report" / "report.md").read_text())
    assert len(linked) == 3
    assert all((tmp_path / "report" / link).is_file() for link in linked)


def test_table_1_has_the_papers_figures_marked_as_another_models(measured: Measured) -> None:
    text = render.markdown(page.head(measured[0]))
    row = next(line for line in text.splitlines() if "memories, irag" in line)
    assert row == (
        "| **memories, irag** | **100.0** | **100.0** | **1.000** | **100.0** | 84.7 | 0.921 | 62.0 |"
    )
    assert "ANOTHER MODEL" in text
    assert "3 memories, invented-base" in text


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_one_file_and_escapes_everything(measured: Measured) -> None:
    evil = '<script>alert("&")</script>'
    null = NullRoute(2, 0.5, False, [evil], [0.1, 0.2])
    found = msgspec.structs.replace(measured[0], model=evil, embedder=evil, null_route=null)
    pictures = {name: plot._replace(caption=evil) for name, plot in plots.draw(found).items()}
    seen = _Tags()
    seen.feed(render.html(page.title(found), page.page(found, pictures)))
    assert seen.open == []
    assert "script" not in {tag for tag, _ in seen.tags}
    assert seen.text.count(evil) >= 5
    assert f"opened: {evil}" in seen.text
    assert "NOT identical" in seen.text
    sources = [attrs["src"] or "" for tag, attrs in seen.tags if tag == "img"]
    assert len(sources) == 3
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not {"href", "srcset"} & {name for _, attrs in seen.tags for name in attrs}


def test_texts_cannot_break_markdown() -> None:
    assert render.markdown([render.Points(["a\n<b>"])]) == "- a &lt;b>\n"
    assert render.markdown([render.Table(["a|b"], [["c\nd"]])]) == "| a\\|b |\n| --- |\n| c d |\n"


def test_equal_figures_give_equal_plots(measured: Measured) -> None:
    assert plots.draw(measured[0])["scores"].svg == plots.draw(measured[0])["scores"].svg


def test_one_memory_is_enough(tmp_path: Path) -> None:
    material = Material(items()[:1], [Choice("zzz?", ("one", "two"), "one")], ["Nobody knows."])
    found, questions = measure(material, subject(tmp_path / "bank"), None, lambda _: None)
    assert [one.after for one in found.forgetting] == [0]
    output.write(found, questions, tmp_path / "report")
    assert len((tmp_path / "report" / "answers.jsonl").read_text().splitlines()) == 1
