"""The Grafana dashboard asks for metrics and labels that there are, and its panels lie beside each other."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import prometheus_client
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.http.test_metrics import SIZES
from vllm_mega.engine.residency import Residency
from vllm_mega.http import measures
from vllm_mega.http.metrics import Told, exposition

ROOT = Path(__file__).resolve().parents[2]
BOARD = json.loads((ROOT / "serving_configs" / "grafana.json").read_text())
NAME = re.compile(r"\b((?:mega_|vllm:)[a-z_]+)(?:\{([^}]*)\})?")
LABEL = re.compile(r'(\w+)=~?"')
OURS_EVERYWHERE = {"instance"}
"""Labels that Prometheus adds."""


def shown() -> list[tuple[str, str]]:
    """(title, expression) of every panel."""
    return [(panel["title"], one["expr"]) for panel in BOARD["panels"] for one in panel.get("targets", ())]


def ours() -> dict[str, set[str]]:
    """Our metrics, by the name of a sample, with the labels that it can have."""
    told = exposition([[msgspec.structs.asdict(Residency())]], Told(1, SIZES)).decode()
    measures.ROUTES.labels("null")
    measures.USES.labels("flushed")
    found: dict[str, set[str]] = {}
    for text in (told, prometheus_client.generate_latest().decode()):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return {name: labels for name, labels in found.items() if name.startswith("mega_")}


def names_of_vllm() -> set[str]:
    """Samples of the metrics that vLLM's logger makes, as its source names them."""
    from vllm.v1.metrics import loggers

    text = Path(str(loggers.__file__)).read_text()
    bare = set(re.findall(r'name="(vllm:\w+)"', text))
    return {name + ending for name in bare for ending in ("", "_total", "_bucket")}


@pytest.mark.parametrize(("title", "expression"), shown(), ids=lambda value: value[:40])
def test_every_metric_and_label_of_an_expression_is_there(title: str, expression: str) -> None:
    known, of_vllm = ours(), names_of_vllm()
    asked = NAME.findall(expression)
    assert asked, title
    for name, labels in asked:
        assert name in known or name in of_vllm, name
        if name in known:
            assert set(LABEL.findall(labels)) <= known[name] | OURS_EVERYWHERE, (name, labels)
    for by in re.findall(r"by \((\w+)\)", expression):
        assert any(by in known.get(name, {"le"}) for name, _ in asked) or by in OURS_EVERYWHERE, by


def test_brackets_are_closed() -> None:
    for title, expression in shown():
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), title


def test_every_metric_of_ours_is_shown_but_a_few() -> None:
    asked = {name for _, expression in shown() for name, _ in NAME.findall(expression)}
    unseen = {name for name in ours() if not name.endswith(("_created", "_count", "_sum"))} - asked
    assert unseen == {
        "mega_bank_adapters", "mega_host_adapters", "mega_host_evictions_total", "mega_load_bytes_total",
    }  # fmt: skip


def test_panels_have_numbers_of_their_own_and_lie_beside_each_other() -> None:
    panels = BOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(p["gridPos"]["x"] >= 0 and p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels)
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        assert not overlap(one, other), (one, other)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    return across and one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]


def test_it_asks_the_source_that_is_chosen() -> None:
    names = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert set(names) == {"source", "instance"}
    panels: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in panels} == {"${source}"}
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    assert all("$instance" in expression for _, expression in shown())


def test_the_document_names_every_metric_of_ours_and_no_other(repo: Path) -> None:
    text = (repo / "docs" / "operations.md").read_text()
    rows = "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`(mega_\w+)", rows))
    known = {re.sub("_(bucket|sum|count)$", "", name) for name in ours() if not name.endswith("_created")}
    assert named == known


def test_the_scraping_of_the_document_is_both_places(repo: Path) -> None:
    text = (repo / "docs" / "operations.md").read_text()
    (block,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", text, re.DOTALL)
    jobs = yaml.safe_load(block)["scrape_configs"]
    assert [job["metrics_path"] for job in jobs] == ["/metrics", "/mega/metrics"]
    assert all(job["authorization"] for job in jobs), "they are for admins, where there are keys"
