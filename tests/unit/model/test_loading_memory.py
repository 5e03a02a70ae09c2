"""Memory that loading takes, in a process of its own: one copy of the weights and little else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gpt2kit
from gpt2kit.checkpoint import save_checkpoint
from gpt2kit.checkpoint.names import trunk_shapes
from gpt2kit.config import GPT2Config

CONFIG = GPT2Config(
    n_layer=3, n_head=8, n_embd=1024, vocab_size=12000, n_positions=64, bos_token_id=0, eos_token_id=0
)  # 200 MB in float32
MEASURE = """
import json, resource, sys
import torch
from gpt2kit import GPT2Config, GPT2LMHeadModel
GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9, bos_token_id=0, eos_token_id=0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = GPT2LMHeadModel.from_pretrained(sys.argv[1], **json.loads(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, model.get_memory_footprint())
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape, np.float32) for name, shape in trunk_shapes(CONFIG).items()}
    base = tmp_path_factory.mktemp("memory")
    save_checkpoint(base / "whole", weights, CONFIG)
    save_checkpoint(base / "shards", weights, CONFIG, max_shard_size="40MB")
    return {name: base / name for name in ("whole", "shards")}


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit and meaning elsewhere")
@pytest.mark.parametrize(
    ("kind", "options"), [("whole", {}), ("shards", {"dtype": "bfloat16"}), ("whole", {"device_map": "auto"})]
)
def test_peak_memory_is_one_copy(folders: dict[str, Path], kind: str, options: dict[str, str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(gpt2kit.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(folders[kind]), json.dumps(options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    used, weights = map(int, done.stdout.split())
    assert weights == (100_288_512 if "dtype" in options else 200_577_024)
    assert used <= 1.25 * weights
