"""The engines that engine.py compares: how each gets its copy of a model folder, loads it and runs.

A contestant is an engine and a format, such as "llama.cpp:q8_0". Imports stand inside the functions: each contestant
runs in a process of its own, some in an environment of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Ids = list[int]


class Peer(NamedTuple):
    """prefill runs a prompt; generate returns the greedy ids that follow one; generate_many those of several."""

    prefill: Callable[[Ids], Any]
    generate: Callable[[Ids, int], Ids]
    generate_many: Callable[[list[Ids], int], list[Ids]] | None = None


class Engine(NamedTuple):
    """formats; prepare(folder, format, copy) writes what load(copy, format, threads) reads, once."""

    formats: tuple[str, ...]
    prepare: Callable[[Path, str, Path], None] | None
    load: Callable[[Path, str, int], Peer]


# ---- gpt2kit ----

# "...-compute" also rounds activations to it, for single tokens too, and keeps keys and values in it.
_GPT2KIT_FILES = {
    "bfloat16": "bf16",
    "bfloat16-compute": "bf16",
    "int8": "int8",
    "int8-compute": "int8",
    "nf4": "nf4",
}


def prepare_gpt2kit(folder: Path, format: str, copy: Path) -> None:
    from gpt2kit.checkpoint import open_checkpoint
    from gpt2kit.engine import quantize_folder

    if format == "float32":
        copy.symlink_to(folder.resolve())
    else:
        quantize_folder(open_checkpoint(folder), copy, _GPT2KIT_FILES[format])


def load_gpt2kit(copy: Path, format: str, threads: int) -> Peer:
    from gpt2kit import load_engine

    compute: Any = format.removesuffix("-compute") if format.endswith("-compute") else None
    engine = load_engine(copy, threads=threads, compute=compute, kv_cache_dtype=compute)

    def generate_many(prompts: list[Ids], n: int) -> list[Ids]:
        return engine.generate(prompts, max_new_tokens=n, min_new_tokens=n, do_sample=False)

    return Peer(
        lambda ids: engine.forward([(engine.new_sequence(), ids)]),
        lambda ids, n: generate_many([ids], n)[0],
        generate_many,
    )


# ---- Transformers ----


def load_transformers(copy: Path, format: str, threads: int) -> Peer:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(copy, dtype=format).eval()

    def prefill(ids: Ids) -> None:
        with torch.inference_mode():
            model(torch.tensor([ids]), logits_to_keep=1)

    def generate_many(prompts: list[Ids], n: int) -> list[Ids]:
        inputs = torch.tensor(prompts)
        with torch.inference_mode():
            out = model.generate(
                inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=n, min_new_tokens=n, do_sample=False,
                pad_token_id=50256,
            )  # fmt: skip
        new: list[Ids] = out[:, inputs.shape[1] :].tolist()
        return new

    return Peer(prefill, lambda ids, n: generate_many([ids], n)[0], generate_many)


# ---- llama.cpp ----


def prepare_llama_cpp(folder: Path, format: str, copy: Path) -> None:
    if format == "f32":
        write_gguf(folder, copy)
        return
    import llama_cpp

    source = copy.with_name("llama.cpp-f32")
    if not source.exists():
        write_gguf(folder, source)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{format.upper()}")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(copy).encode(), parameters):
        raise SystemExit(f"llama.cpp cannot write {format}")


def write_gguf(folder: Path, path: Path) -> None:
    """Write the folder's weights and vocabulary as a float32 GGUF file."""
    import gguf

    from gpt2kit import AutoTokenizer
    from gpt2kit.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_file_type(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(vocabulary) - 1) + [gguf.TokenType.CONTROL])
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")[1:]
    writer.add_token_merges([merge for merge in merges if merge])
    writer.add_eos_token_id(config.eos_token_id)
    names = {
        "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
        "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
    }  # fmt: skip
    tops = {"wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight",
            "ln_f.weight": "output_norm.weight", "ln_f.bias": "output_norm.bias"}  # fmt: skip
    for name in checkpoint.names():
        array = checkpoint.float32(name)
        if name in tops:
            target = tops[name]
        else:
            _, layer, rest = name.split(".", 2)
            part, kind = rest.rsplit(".", 1)
            target = f"blk.{layer}.{names[part]}.{kind}"
            array = array.T if array.ndim == 2 else array  # Conv1D is (in, out), GGUF wants (out, in)
        writer.add_tensor(target, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_llama_cpp(copy: Path, format: str, threads: int) -> Peer:
    import llama_cpp

    model = llama_cpp.Llama(
        str(copy),
        n_ctx=1024,
        n_threads=threads,
        n_threads_batch=threads,
        n_batch=512,
        n_ubatch=512,
        verbose=False,
    )
    vocab_size = model.n_vocab()

    def prefill(ids: Ids) -> None:
        model.reset()
        model.eval(ids)

    def best() -> int:
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(model.ctx), shape=(vocab_size,))
        logits[50256] = -np.inf  # as min_new_tokens does for the others
        return int(np.argmax(logits))

    def generate(ids: Ids, n: int) -> Ids:
        prefill(ids)
        out = [best()]
        for _ in range(n - 1):
            model.eval(out[-1:])
            out.append(best())
        return out

    return Peer(prefill, generate)


# ---- CTranslate2 ----


def prepare_ctranslate2(folder: Path, format: str, copy: Path) -> None:
    import ctranslate2

    ctranslate2.converters.TransformersConverter(str(folder)).convert(str(copy), quantization=format)


def load_ctranslate2(copy: Path, format: str, threads: int) -> Peer:
    import json

    import ctranslate2

    model = ctranslate2.Generator(
        str(copy), device="cpu", intra_threads=threads, inter_threads=1, compute_type=format
    )
    tokens: list[str] = json.loads((copy / "vocabulary.json").read_text(encoding="utf-8"))

    def prefill(ids: Ids) -> None:  # computes the logits of all positions: it has no other way
        model.forward_batch([[tokens[i] for i in ids]])

    def generate_many(prompts: list[Ids], n: int) -> list[Ids]:
        texts = [[tokens[i] for i in ids] for ids in prompts]
        results = model.generate_batch(
            texts, max_length=n, min_length=n, sampling_topk=1, include_prompt_in_result=False, end_token=[]
        )
        return [list(result.sequences_ids[0]) for result in results]

    return Peer(prefill, lambda ids, n: generate_many([ids], n)[0], generate_many)


# ---- OpenVINO ----


def prepare_openvino(folder: Path, format: str, copy: Path) -> None:
    import shutil
    import subprocess
    import sys

    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    bits = {"fp32": None, "int8": 8, "int4": 4}[format]
    quantized = (
        {"quantization_config": OVWeightQuantizationConfig(bits=bits)} if bits else {"load_in_8bit": False}
    )
    OVModelForCausalLM.from_pretrained(folder, export=True, **quantized).save_pretrained(copy)
    for path in folder.iterdir():
        if path.suffix in (".json", ".txt") and not (copy / path.name).exists():
            shutil.copy(path, copy)
    convert = Path(sys.executable).with_name("convert_tokenizer")
    subprocess.run([convert, copy, "-o", copy, "--with-detokenizer"], check=True)


def load_openvino(copy: Path, format: str, threads: int) -> Peer:
    import openvino
    import openvino_genai

    pipe = openvino_genai.LLMPipeline(str(copy), "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(ids: Ids, n: int) -> Ids:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = n
        config.do_sample, config.ignore_eos = False, True
        inputs = np.array([ids], np.int64)
        tokenized = openvino_genai.TokenizedInputs(
            openvino.Tensor(inputs), openvino.Tensor(np.ones_like(inputs))
        )
        return list(pipe.generate(tokenized, config).tokens[0])

    return Peer(lambda ids: generate(ids, 1), generate)


# ---- vLLM ----


def load_vllm(copy: Path, format: str, threads: int) -> Peer:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{threads - 1}")
    from vllm import LLM, SamplingParams

    model = LLM(str(copy), dtype=format, max_model_len=1024)

    def generate_many(prompts: list[Ids], n: int) -> list[Ids]:
        parameters = SamplingParams(
            temperature=0, max_tokens=n, min_tokens=n, ignore_eos=True, detokenize=False
        )
        inputs: Any = [{"prompt_token_ids": ids} for ids in prompts]
        return [
            list(found.outputs[0].token_ids) for found in model.generate(inputs, parameters, use_tqdm=False)
        ]

    return Peer(lambda ids: generate_many([ids], 1), lambda ids, n: generate_many([ids], n)[0], generate_many)


ENGINES = {
    "gpt2kit": Engine(("float32", *_GPT2KIT_FILES), prepare_gpt2kit, load_gpt2kit),
    "transformers": Engine(("float32", "bfloat16"), None, load_transformers),
    "llama.cpp": Engine(("f32", "bf16", "q8_0", "q4_0", "q4_k_m"), prepare_llama_cpp, load_llama_cpp),
    "ctranslate2": Engine(("float32", "int8"), prepare_ctranslate2, load_ctranslate2),
    "openvino": Engine(("fp32", "int8", "int4"), prepare_openvino, load_openvino),
    "vllm": Engine(("bfloat16",), None, load_vllm),
}
# These compute as Transformers does in float32, and so must choose the same ids.
EXACT = ("gpt2kit:float32", "transformers:float32", "llama.cpp:f32", "ctranslate2:float32")
