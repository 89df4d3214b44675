"""The load tests of faults: what is parsed, what is bad, what is shown."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from loadtests import churn, kills
from loadtests.processes import processes, seconds_until_gone, started


def shown(table: object) -> str:
    console = Console(width=100, record=True)
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (kills, ["--kills", "0"], "--kills: must be at least 1"),
        (kills, ["--kinds", "nobody"], "invalid choice: 'nobody'"),
        (churn, ["--memories", "1"], "--memories: must be at least 2"),
        (churn, ["--changes", "0"], "--changes: must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(
    module: object, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        module.PROGRAM.arguments(["--output", "x.json", *options])  # type: ignore[attr-defined]
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "body", "told", "bad"),
    [
        (200, {"choices": []}, "200", False),
        (404, {"error": {"type": "NotFoundError"}}, "404 NotFoundError", False),
        (503, {"error": {"type": "ServiceUnavailableError"}}, "503 ServiceUnavailableError", False),
        (500, {"error": {"type": "InternalServerError"}}, "500 InternalServerError", True),
        (200, {"error": {"type": "InternalServerError"}}, "200, then an error", True),
    ],
)
def test_what_is_bad(status: int, body: dict[str, object], told: str, bad: bool) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, json=body))
    with httpx.Client(transport=transport, base_url="http://127.0.0.1") as client:
        found, wrong = churn.ask(client, ["a", "b"], 4)  # the fifth is streamed
    assert (found, bool(wrong)) == (told, bad)


def test_results_are_shown() -> None:
    clean, bad = kills.Outcome("api", 1.2, ()), kills.Outcome("api", None, ("mega-1",))
    assert (clean.clean, bad.clean) == (True, False)
    result = kills.Result(2, 1, [clean, bad])
    assert not result.good
    assert "1.2" in shown(kills.table(result))
    calm = churn.Result(3, 1.0, 2, 1, 4, {"200": 3}, [], True)
    assert calm.good
    assert "2 updates, 1 forgets, 4" in shown(churn.table(calm))


def test_processes_are_found_and_ended(tmp_path: Path) -> None:
    child = "import subprocess, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
    log = tmp_path / "log"
    with started([sys.executable, "-c", child], tmp_path, log) as server:
        while len(found := processes(server.pid)) < 2 or found["api"].name() != "sleep":
            pass
        assert {"keeper", "api"} == set(found)
        assert found["api"].environ()["TMPDIR"] == str(tmp_path)
        assert seconds_until_gone(list(found.values()), 0.2) is None
    assert seconds_until_gone(list(found.values()), 10) is not None
