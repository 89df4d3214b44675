"""The shell of the command line, with commands invented here."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vllm_mega import __version__, cli, commands
from vllm_mega.errors import BankNotFoundError, RequestError

ECHO = '''
"""Invented for a test."""
import argparse
import re
import shlex

HELP = "say " "it again"
PASSTHROUGH = {passthrough}


def configure(parser):
    parser.add_argument("word")
    parser.add_argument("--number", type=int, default=1)


def run(args):
    print(args.word, args.number, args.rest)
    return 3
'''
BROKEN = 'HELP: str = "cannot be imported"\nraise ImportError("not asked for")\n'


@pytest.fixture
def invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Commands `echo`, `pass` (passes options through) and `broken` (cannot be imported), and no others."""
    (tmp_path / "echo.py").write_text(ECHO.format(passthrough=False), encoding="utf-8")
    (tmp_path / "pass.py").write_text(ECHO.format(passthrough=True), encoding="utf-8")
    (tmp_path / "broken.py").write_text(BROKEN, encoding="utf-8")
    monkeypatch.setattr(commands, "__path__", [str(tmp_path)])
    for name in ("echo", "pass", "broken"):
        monkeypatch.delitem(sys.modules, f"{commands.__name__}.{name}", raising=False)
    yield tmp_path
    for name in ("echo", "pass", "broken"):
        sys.modules.pop(f"{commands.__name__}.{name}", None)


def command_that(act: Callable[[], int]) -> argparse.Namespace:
    """A command whose `run` does `act`."""
    return argparse.Namespace(HELP="", configure=lambda parser: None, run=lambda args: act())


def test_runs_the_chosen_command_and_imports_no_other(
    invented: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["echo", "hello", "--number", "2"]) == 3
    assert capsys.readouterr().out == "hello 2 []\n"


def test_help_lists_every_command(invented: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "say it again" in out
    assert "cannot be imported" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"vllm-mega {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["eco", "x"], "unknown command 'eco'; did you mean 'echo'?"),
        (["xyzzy"], "invalid choice: 'xyzzy'"),
        (["--nonsense"], "required: COMMAND"),
        (["echo", "x", "--numbr", "2"], "unrecognized arguments: --numbr 2"),
        (["echo", "x", "--num", "2"], "unrecognized arguments: --num 2"),
    ],
)
def test_mistakes_are_named(
    invented: Path, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_options_pass_through_where_the_command_says_so(
    invented: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["pass", "model", "--max-model-len", "512", "--number", "2", "--enforce-eager"]) == 3
    assert capsys.readouterr().out == "model 2 ['--max-model-len', '512', '--enforce-eager']\n"


@pytest.mark.parametrize("error", [BankNotFoundError("no bank at B"), RequestError("no bank at B", "mega")])
def test_our_errors_are_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail() -> int:
        raise error

    monkeypatch.setattr(cli, "parse", lambda argv: (command_that(fail), argparse.Namespace()))
    assert cli.main(["any"]) == 1
    assert capsys.readouterr() == ("", "vllm-mega: error: no bank at B\n")


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "parse", lambda argv: (command_that(lambda: 1 // 0), argparse.Namespace()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["any"])


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse", lambda argv: (command_that(interrupt), argparse.Namespace()))
    assert cli.main(["any"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_who_has_gone_is_met_quietly() -> None:
    code = (
        "import argparse, sys\n"
        "from vllm_mega import cli\n"
        "def run(args):\n    sys.stdin.read()\n    print('x' * 100)\n    return 0\n"
        "command = argparse.Namespace(run=run)\n"
        "cli.parse = lambda argv: (command, argparse.Namespace())\n"
        "sys.exit(cli.main([]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        _, err = process.communicate(timeout=60)  # closes stdin: now it prints
    assert (process.returncode, err) == (cli.EXIT_PIPE, b"")


def test_module_is_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "vllm_mega", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout == f"vllm-mega {__version__}\n"


def documents(repo: Path) -> list[Path]:
    return [repo / "README.md", repo / "CONTRIBUTING.md", *sorted((repo / "docs").glob("*.md"))]


def test_the_commands_of_the_documents_parse(repo: Path) -> None:
    lines: list[str] = []
    for file in documents(repo):
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
        lines += [line for line in text.splitlines() if line.startswith("vllm-mega ")]
        lines += re.findall(r"`(vllm-mega [\w-]+ (?:\w+ )?-[^`]*)`", text)
    assert {line.split()[1] for line in lines} >= {"train", "bank", "gate", "serve", "query", "eval"}
    assert len(lines) >= 12
    for line in lines:
        cli.parse(shlex.split(line)[1:])


def test_the_links_and_targets_of_the_documents_exist(repo: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (repo / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for file in documents(repo):
        text = file.read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
        assert [link for link in links if not (file.parent / link).exists()] == [], file
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
        assert named <= targets, (file, named - targets)


def test_the_readme_is_short(repo: Path) -> None:
    assert len((repo / "README.md").read_text(encoding="utf-8").split()) <= 900
