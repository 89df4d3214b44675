"""Forgetting with a receipt."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bank.command.running import Run
from tests.banks import newest


def test_forget_with_a_receipt(run: Run, bank: Path, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    code, out, _ = run("forget", "second", "--receipt", receipt)
    assert (code, out) == (0, f"receipt: {receipt}\nforgot default/second (event 3)\n")
    assert receipt.stat().st_mode & 0o777 == 0o600
    assert run("verify", "--forgotten", receipt) == (0, "problems: 0\n", "")
    run("add", "--text", "The lamp of second burns 2 nights.", "--id", "again", "--tag", "light")
    code, out, _ = run("verify", "--forgotten", receipt, "--json")
    assert (code, [json.loads(line)["where"] for line in out.splitlines()]) == (1, ["default/again"])
    code, _, err = run("forget", "again", "--receipt", receipt)
    assert code == 1
    assert "cannot be made (File exists), and nothing is forgotten" in err
    assert newest(bank, "again").number == 1


def test_no_receipt_stays_of_what_was_not_forgotten(run: Run, tmp_path: Path) -> None:
    assert run("forget", "nobody", "--receipt", tmp_path / "receipt.json")[0] == 1
    assert not (tmp_path / "receipt.json").exists()
    assert run("verify", "--forgotten", tmp_path / "receipt.json")[0] == 1


def test_sweep_can_write_the_catalog_anew(run: Run) -> None:
    assert run("sweep", "--rewrite") == (0, "removed: 0\nthe catalog is written anew\n", "")
