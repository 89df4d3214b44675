"""The command: prints the contract, as docs/upstream.md has it, and checks a source tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.invented import write
from vllm_mega.contract import tested
from vllm_mega.contract.tree import Tree
from vllm_mega.contract.use import Use
from vllm_mega.engine.upstream import __main__ as command
from vllm_mega.engine.upstream.whole import CONTRACT

HEADING = "## The contract\n\n"


def test_the_tables_of_the_docs_are_those_of_the_contract(repo: Path) -> None:
    text = (repo / "docs" / "upstream.md").read_text(encoding="utf-8")
    expected = "\n".join(command.told(markdown=True))
    assert text.partition(HEADING)[2].rstrip("\n") == expected.rstrip("\n"), (
        "write it again behind 'The contract': python -m vllm_mega.engine.upstream --markdown"
    )


def test_it_prints_every_owner_with_why_and_until(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    for use in (use for uses in CONTRACT.values() for use in uses):
        release = f" of {use.only}" if use.only else ""
        assert f"{use.owner}{release}  ({use.by})\n    {use.why} Until {use.until}.\n" in printed


def test_it_checks_a_tree_and_says_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use = Use("vllm.core:Core", by="engine.x", why="w", overrides={"run": "self step"}, reads="size")
    monkeypatch.setattr(command, "CONTRACT", {"vllm": (use,)})
    write(tmp_path, use)
    (tmp_path / "vllm" / "_version.py").write_text("__version__ = version = '0.33.0'\n")
    assert command.main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == "vllm 0.33.0 (tested: 0.32.0 or 0.33.0): 2 names, 0 differ\n"
    write(tmp_path, Use("vllm.core:Core", by="", why="", overrides={"run": "self"}, reads="size"))
    assert command.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out == (
        "vllm 0.33.0 (tested: 0.32.0 or 0.33.0): 2 names, 1 differ\n"
        "  vllm.core:Core.run takes (self), expected (self step) (used by engine.x)\n"
    )


def test_a_folder_without_packages_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main([str(tmp_path)])
    assert "holds neither vllm/ nor transformers/" in capsys.readouterr().err


@pytest.mark.parametrize("version", tested.TESTED["vllm"])
def test_the_sources_of_every_tested_release_are_what_the_contract_says(
    version: str, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(folders[version])]) == 0, capsys.readouterr().out
    assert f"vllm {version} (" in capsys.readouterr().out


def test_what_is_installed_is_what_was_tested(
    site_packages: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(site_packages)]) == 0, capsys.readouterr().out
    tree = Tree(site_packages)
    assert all(tree.version(package) in tested.TESTED[package] for package in CONTRACT)
