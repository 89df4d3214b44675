"""The trainer's word against the engine's: what is parsed and shown."""

from __future__ import annotations

import pytest
from rich.console import Console

from loadtests import disguises, recitals


def shown(table: object) -> str:
    console = Console(width=100, record=True)
    console.print(table)
    return console.export_text()


def test_disagreements_are_named() -> None:
    result = recitals.Result("m", 12, 12, 11, 11, ["ferrow-bridge"], 36, 22, 27, None)
    text = shown(recitals.table(result))
    assert "11 of 12 ferrow-bridge" in text
    assert "trained before" in text


def test_a_bank_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        recitals.PROGRAM.arguments(["--output", "x.json"])
    assert "--bank" in capsys.readouterr().err


def test_disguises_are_chosen_by_name() -> None:
    args = disguises.PROGRAM.arguments(["--output", "x.json", "--only", "none", "width doubled"])
    assert [disguises.DISGUISES[name] for name in args.only] == [(), (disguises.wider,)]
    line = disguises.Line("none", 6, 6, 18, 14, 22.5, 4.0)
    assert "14 of 18" in shown(disguises.table([line]))
