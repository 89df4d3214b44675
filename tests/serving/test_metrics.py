"""What /mega/metrics says."""

from __future__ import annotations

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from vllm_mega.engine.residency import Residency
from vllm_mega.serving.metrics import exposition


def test_every_counter_of_every_worker_is_told() -> None:
    one, two = Residency(slot_hits=3, stall_seconds=0.25, slots=8), Residency(loads=7)
    text = exposition([msgspec.structs.asdict(one), msgspec.structs.asdict(two)]).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {f"mega_{name}" for name in Residency.__struct_fields__}
    values = {
        (sample.name, sample.labels["worker"]): sample.value
        for family in families.values()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert values["mega_slot_hits_total", "0"] == 3
    assert values["mega_stall_seconds_total", "0"] == 0.25
    assert values["mega_slots", "0"] == 8
    assert values["mega_loads_total", "1"] == 7
