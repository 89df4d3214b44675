"""What every load test does around measuring."""

from __future__ import annotations

import signal
from argparse import Namespace
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from loadtests.program import Program, at_least, fresh_log, positive
from vllm_mega.errors import MegaError

FOLDER = Path(__file__).resolve().parents[2] / "loadtests"
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if "PROGRAM = Program(" in path.read_text())


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def program(measure: object) -> Program[int]:
    return Program(
        "some", measure, lambda number: Table(f"found {number}"), "Count.",
        options=lambda add: add("--times", type=at_least(1), default=2),
        good=lambda number: number < 10,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(("times", "code"), [("4", 0), ("5", 1)])
def test_the_result_is_written_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], times: str, code: int
) -> None:
    def measure(args: Namespace, console: Console) -> int:
        fresh_log(args).write_text("said")
        return args.times * 2

    output = tmp_path / "new" / "some.json"
    assert program(measure).main(["--output", str(output), "--times", times]) == code
    assert output.read_text().strip() == str(2 * int(times))
    assert (tmp_path / "new" / "some.log").read_text() == "said"
    assert f"found {2 * int(times)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "said"), [(MegaError("no luck"), 1, "error: no luck\n"), (KeyboardInterrupt(), 130, "")]
)
def test_without_a_result_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str
) -> None:
    def measure(*_: object) -> int:
        raise error

    assert program(measure).main(["--output", str(tmp_path / "some.json")]) == code
    assert capsys.readouterr().err == said
    assert not list(tmp_path.iterdir())


def test_kill_is_an_exception(tmp_path: Path) -> None:
    def measure(*_: object) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    with pytest.raises(SystemExit, match="143"):
        program(measure).main(["--output", str(tmp_path / "some.json")])


def test_a_folder_that_cannot_be_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert program(lambda *_: 1).main(["--output", str(tmp_path / "file" / "some.json")]) == 1
    assert f"--output {tmp_path}/file/some.json" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["0", "-1", "inf", "nan"])
def test_numbers_that_are_none(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    limits = Program(
        "some", lambda *_: 1, lambda _: Table(), "", options=lambda add: add("-n", type=positive)
    )
    with pytest.raises(SystemExit):
        limits.arguments(["--output", "x", "-n", word])
    assert f"must be a positive number, got {word}" in capsys.readouterr().err


@pytest.mark.parametrize("name", MODULES)
def test_every_load_test_tells_of_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = import_module(f"loadtests.{name}").PROGRAM
    assert found.name == name
    with pytest.raises(SystemExit):
        found.arguments(["--help"])
    assert f"python -m loadtests.{name} " in capsys.readouterr().out
