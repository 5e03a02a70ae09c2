"""GPT-2 XL in NF4 with double quantisation, as the model's page has it, in at most 1.5 GB of memory in all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gpt2kit.checkpoint.names import file_name, trunk_shapes
from gpt2kit.config import GPT2Config

LIMIT_BYTES = 1.5e9
LAYERS_PER_SHARD = 6

SCRIPT = """
import json, sys
import torch
from gpt2kit import AutoModelForCausalLM, BitsAndBytesConfig

torch.set_num_threads(1)

quantization_config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_compute_dtype="float16",
    bnb_4bit_use_double_quant=True,
)
model = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], quantization_config=quantization_config, device_map="auto"
)
inputs = torch.tensor([[464, 3290, 373]])
outputs = model.generate(inputs, max_new_tokens=4)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "ids": outputs[0].tolist(),
    "dtype": str(model.dtype),
    "footprint": model.get_memory_footprint(),
    "parameters": model.num_parameters(),
    "peak_bytes": int(status["VmHWM"].split()[0]) * 1024,
}))
"""


def write_xl(folder: Path) -> None:
    """Write random float16 weights, a shard of a few layers at a time."""
    config = GPT2Config.preset("gpt2-xl", dtype="float16", architectures=["GPT2LMHeadModel"])
    config.save_pretrained(folder)
    noise = (np.random.default_rng(0).standard_normal(2**20) * 0.02).astype(np.float16)
    shards: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in trunk_shapes(config).items():
        part = int(name.split(".")[1]) // LAYERS_PER_SHARD if name.startswith("h.") else 99
        shards.setdefault(f"model-{part:05d}-of-00099.safetensors", {})[name] = shape
    weight_map = {}
    for shard, shapes in shards.items():
        tensors = {
            file_name(name): np.ones(shape, np.float16) if "ln_" in name else np.resize(noise, shape)
            for name, shape in shapes.items()
        }
        save_file(tensors, folder / shard, {"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, shard))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory there")
def test_xl_in_nf4_loads_and_generates_in_one_and_a_half_gigabytes(tmp_path: Path) -> None:
    write_xl(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["ids"][:3] == [464, 3290, 373]
    assert len(facts["ids"]) == 7
    assert facts["dtype"] == "torch.float16"
    assert facts["parameters"] == 1_557_611_200
    # Known from Transformers: float16 takes so many times the bytes of 4 bits.
    assert 2 * facts["parameters"] / facts["footprint"] == pytest.approx(3.4483983748189027, rel=1e-9)
    assert facts["peak_bytes"] <= LIMIT_BYTES, f"{facts['peak_bytes'] / 1e9:.2f} GB"
