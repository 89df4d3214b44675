"""What `make setup` installs: exact versions, and no file that is not known by its digest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PIN = re.compile(r"[A-Za-z0-9._-]+==[^ ;]+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+")


def pins(repo: Path) -> list[str]:
    """The requirements of the lock, each with its continued lines."""
    lines = (repo / "requirements.lock").read_text().split("\n")
    text = "\n".join(line for line in lines if not line.startswith("#"))
    return re.split(r"\n(?! )", text.strip())


def test_every_pin_has_digests(repo: Path) -> None:
    found = pins(repo)
    assert len(found) > 100
    assert [pin.partition(" ")[0] for pin in found if not PIN.fullmatch(pin)] == []
    names = [pin.partition("==")[0] for pin in found]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("what", ['-r "$pinned"', "-r requirements.lock"])
def test_setup_takes_nothing_without_a_digest(repo: Path, what: str) -> None:
    script = (repo / "scripts" / "setup.sh").read_text()
    assert f"--require-hashes {what}" in script
    installs = re.findall(r"pip install .*", script)
    unchecked = [
        line for line in installs if "--require-hashes" not in line and "--no-build-isolation" not in line
    ]
    # PyTorch's own index, when no configured one has the build; and the advice to install it by hand.
    assert len([line for line in unchecked if "CPU_WHEELS" in line]) == 1
    assert len(unchecked) == 2
