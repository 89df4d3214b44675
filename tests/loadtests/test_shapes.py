"""Quality against bytes: what is parsed, asked and concluded."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from loadtests.machine import this_machine
from loadtests.shapes import PROGRAM, SHAPES, Result, Shape, ask, drawing, point, table
from tests.evaluation.fakes import Reciter, items, subject
from vllm_mega.evaluation import plots
from vllm_mega.evaluation.model import Reply
from vllm_mega.gate.embedder import FakeEmbedder
from vllm_mega.training.recipe.settings import TrainSettings
from vllm_mega.training.recipe.targets import resolved

DEFAULT = Shape(4, 10, "mlp")


def test_the_default_is_among_the_shapes() -> None:
    assert DEFAULT in SHAPES
    assert DEFAULT.settings == resolved(TrainSettings(), {"model_type": "llama", "num_hidden_layers": 30})
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)


def test_shapes_are_read() -> None:
    args = PROGRAM.arguments(["--output", "x.json", "--shapes", "2,20,mlp", "1,3,up_proj+down_proj,float32"])
    assert args.shapes == [Shape(2, 20, "mlp"), Shape(1, 3, "up_proj+down_proj", "float32")]
    assert args.shapes[1].settings == TrainSettings(
        rank=1, layers=3, modules=("up_proj", "down_proj"), dtype="float32"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shapes", "4,10"], "it must be RANK,LAYERS,MODULES[,DTYPE]"),
        (["--shapes", "4,10,mlp,float32,8"], "it must be RANK"),
        (["--shapes", "four,10,mlp"], "Expected `int`"),
        (["--shapes", "0,10,mlp"], "rank must be 1..512, got 0"),
        (["--shapes", "4,10,mlp,int4"], "Invalid enum value 'int4'"),
        (["--limit", "0"], "--limit: must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        PROGRAM.arguments(["--output", "x.json", *options])
    assert words in capsys.readouterr().err


def test_every_memory_is_asked_with_its_own_adapter(tmp_path: Path) -> None:
    found, reciter = items(), Reciter({item.id: item.text for item in items()})
    replies = ask(found, DEFAULT, reciter)
    hows = [how for _, how in reciter.asked]
    assert {how["namespace"] for how in hows} == {DEFAULT.name}
    ids = [item.id for item in found]
    assert [how["memories"] for how in hows] == [[{"id": one, "weight": 1.0}] for one in ids * 3]
    assert [how["mode"] for how in hows] == ["recall"] * 3 + ["adapter"] * 3 + ["irag"] * 3
    assert all(reply.text == item.text for reply, item in zip(replies[0], found, strict=True))


def test_figures_and_their_picture(tmp_path: Path) -> None:
    found = items()
    library = subject(tmp_path).library
    versions = [library.version(library.get("default", item.id)) for item in found]
    trained = [
        msgspec.structs.replace(version, adapter_bytes=size, training={"seconds": seconds, "steps": 20})
        for version, size, seconds in zip(versions, (100, 100, 400), (1.0, 3.0, 2.0), strict=True)
    ]
    texts, firsts = ([f(item.text) for item in found] for f in (str, lambda text: text.split()[0]))
    recall, direct, irag = ([Reply(text, ()) for text in some] for some in (texts, firsts, ["?"] * 3))
    one = point(DEFAULT, found, trained, (recall[:2] + direct[:1], direct, irag), FakeEmbedder(), 1000)
    assert (one.bytes_per_memory, one.share_of_base, one.seconds_per_memory, one.steps) == (200, 0.2, 3.0, 20)
    assert (one.exact, one.direct, one.irag) == (pytest.approx(2 / 3), 1.0, 0.0)
    assert one.recall_cosine < 1
    result = Result(this_machine("bfloat16"), 3, 3, 0.5, [one])
    assert table(result).row_count == 1
    assert plots.pictures(drawing(result))["png"].startswith(b"\x89PNG")
