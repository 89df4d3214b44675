"""What may be served as a plain adapter: at run time (vLLM has an option for it), resolved, at start-up."""

from __future__ import annotations

from asyncio import Lock
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest
from vllm.lora.request import LoRARequest
from vllm.utils.counter import AtomicCounter

from tests.bank.samples import BASE, EMBEDDER
from vllm_mega.bank.catalog.catalog import create_catalog
from vllm_mega.bank.catalog.records import BankSettings
from vllm_mega.config import MegaSettings
from vllm_mega.errors import ConfigError
from vllm_mega.http.endpoints import attach
from vllm_mega.http.handlers import MegaModels
from vllm_mega.mixture import Mixture

DIGEST = "ab" * 32
ADAPTER = f"adapters/ab/{DIGEST}"
MIXTURE = Mixture([("0" * 64, "/etc", 1.0)])


class Engine:
    """Loads whatever it is given."""

    async def add_lora(self, request: LoRARequest) -> bool:
        return True


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A bank, another one, links into the bank, a plain adapter, and one below what is nearly a bank."""
    create_catalog(tmp_path / "bank", BankSettings(BASE, EMBEDDER)).close()
    create_catalog(tmp_path / "other", BankSettings(BASE, EMBEDDER)).close()
    for folder in (f"bank/{ADAPTER}", f"other/{ADAPTER}", "plain", "nearly/plain"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "nearly/bank.json").touch()
    (tmp_path / "link").symlink_to(tmp_path / "bank/adapters/ab")
    (tmp_path / "adapter").symlink_to(tmp_path / "bank" / ADAPTER)
    return tmp_path / "bank"


def models_of(bank: Path) -> Any:
    models: Any = MegaModels.__new__(MegaModels)
    models.bank, models.engine_client = bank, Engine()
    models.base_model_paths, models.lora_requests = [BaseModelPath("base", "base")], {}
    models.lora_resolver_lock, models.lora_id_counter = defaultdict(Lock), AtomicCounter(0)
    models.registry = SimpleNamespace(is_base_model=lambda name: name == "base")
    models.model_config = SimpleNamespace(model="base")
    models.lora_resolvers = []
    return models


BAD = {
    MIXTURE.path: "path of a mixture",
    "{root}/bank": "memory of a bank",
    f"{{root}}/bank/{ADAPTER}": "memory of a bank",
    "{root}/plain/../bank/adapters": "memory of a bank",
    "{root}/bank/staging": "memory of a bank",
    f"{{root}}/link/{DIGEST}": "memory of a bank",
    "{root}/adapter": "memory of a bank",
    f"{{root}}/other/{ADAPTER}": "memory of a bank",
    "{root}/\0": "no path",
}


@pytest.mark.parametrize("path", BAD)
async def test_what_belongs_to_memories_is_not_loaded_at_run_time(bank: Path, path: str) -> None:
    models = models_of(bank)
    where = path.replace("{root}", str(bank.parent))
    answer = await models.load_lora_adapter(LoadLoRAAdapterRequest(lora_name="mine", lora_path=where))
    assert isinstance(answer, ErrorResponse)
    assert (answer.error.code, answer.error.param) == (400, "lora_path")
    assert BAD[path] in answer.error.message
    assert models.lora_requests == {}


@pytest.mark.parametrize("path", BAD)
async def test_what_belongs_to_memories_is_not_resolved(bank: Path, path: str) -> None:
    models = models_of(bank)

    class Resolver:
        async def resolve_lora(self, base: str, name: str) -> LoRARequest:
            return LoRARequest(name, 1, path.replace("{root}", str(bank.parent)))

    models.lora_resolvers = [Resolver()]
    answer = await models.resolve_lora("mine")
    assert isinstance(answer, ErrorResponse)
    assert BAD[path] in answer.error.message
    assert models.lora_requests == {}


async def test_a_name_of_a_mixture_is_not_to_be_had(bank: Path) -> None:
    where = str(bank.parent / "plain")
    request = LoadLoRAAdapterRequest(lora_name=MIXTURE.name, lora_path=where)
    answer = await models_of(bank).load_lora_adapter(request)
    assert "those of mixtures" in answer.error.message


async def test_plain_adapters_are_loaded(bank: Path) -> None:
    models = models_of(bank)
    places = {name: str(bank.parent / place) for name, place in (("mine", "plain"), ("near", "nearly/plain"))}
    for name, path in {**places, "hub": "org/adapter"}.items():
        request = LoadLoRAAdapterRequest(lora_name=name, lora_path=path)
        assert "added successfully" in await models.load_lora_adapter(request)
    assert set(models.lora_requests) == {"mine", "near", "hub"}


async def test_a_server_does_not_start_with_a_memory_as_a_plain_adapter(bank: Path) -> None:
    models = models_of(bank)
    models.lora_requests = {"mine": LoRARequest("mine", 1, str(bank / ADAPTER))}
    client = SimpleNamespace(vllm_config=SimpleNamespace(lora_config=SimpleNamespace()))
    state = SimpleNamespace(openai_serving_models=models)
    with pytest.raises(ConfigError, match=r"the LoRA module mine=.*: this is a memory of a bank"):
        await attach(client, state, MegaSettings(bank=str(bank)))
