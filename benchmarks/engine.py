"""Prefill, decode, load time and memory of the CPU engines, side by side on one model folder.

usage: engine.py FOLDER [--dtype float32|bfloat16] [--peers gpt2kit,transformers,llama.cpp] [--rounds 3]
                 [--threads 2] [--prompt 128] [--save RESULTS_FOLDER]
       engine.py FOLDER --one PEER        one measurement as one JSON line

prefill: a 512-token prompt, logits of the last position. decode: 128 greedy tokens after a prompt of --prompt
tokens, batch 1. Prompts are new at every run, so that no cache of a peer can answer. llama.cpp reads a float32
GGUF file that is written from the folder first.

--dtype bfloat16: the others read a copy of FOLDER in bfloat16. Transformers then also computes in it and may choose
other ids, so only those that compute in float32 (gpt2kit, transformers-float32) must agree.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from results import save_results

from gpt2kit.benchmark.memory import peak_rss_bytes

PREFILL, PROMPT, DECODE, RUNS = 512, 128, 128, 5
COMPUTE_IN_FLOAT32 = ("gpt2kit", "transformers-float32")


class Peer(NamedTuple):
    """prefill runs a prompt; generate returns the greedy ids that follow one."""

    prefill: Callable[[list[int]], Any]
    generate: Callable[[list[int], int], list[int]]


def gpt2kit_peer(folder: Path, threads: int, _: Path) -> Peer:
    from gpt2kit import load_engine

    engine = load_engine(folder, threads=threads)
    return Peer(
        lambda ids: engine.forward([(engine.new_sequence(), ids)]),
        lambda ids, n: engine.generate([ids], max_new_tokens=n, min_new_tokens=n, do_sample=False)[0],
    )


def transformers_peer(folder: Path, threads: int, _: Path, dtype: str = "auto") -> Peer:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    def prefill(ids: list[int]) -> None:
        with torch.inference_mode():
            model(torch.tensor([ids]), logits_to_keep=1)

    def generate(ids: list[int], n: int) -> list[int]:
        inputs = torch.tensor([ids])
        with torch.inference_mode():
            out = model.generate(
                inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=n, min_new_tokens=n, do_sample=False,
                pad_token_id=50256,
            )  # fmt: skip
        return out[0, len(ids) :].tolist()

    return Peer(prefill, generate)


def llama_cpp_peer(folder: Path, threads: int, gguf: Path) -> Peer:
    import llama_cpp

    if not gguf.exists():
        write_gguf(folder, gguf)
    model = llama_cpp.Llama(
        str(gguf),
        n_ctx=1024,
        n_threads=threads,
        n_threads_batch=threads,
        n_batch=512,
        n_ubatch=512,
        verbose=False,
    )
    vocab_size = model.n_vocab()

    def prefill(ids: list[int]) -> None:
        model.reset()
        model.eval(ids)

    def best() -> int:
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(model.ctx), shape=(vocab_size,)).copy()
        logits[50256] = -np.inf  # as min_new_tokens does for the others
        return int(np.argmax(logits))

    def generate(ids: list[int], n: int) -> list[int]:
        prefill(ids)
        out = [best()]
        for _ in range(n - 1):
            model.eval(out[-1:])
            out.append(best())
        return out

    return Peer(prefill, generate)


PEERS: dict[str, Callable[[Path, int, Path], Peer]] = {
    "gpt2kit": gpt2kit_peer,
    "transformers": transformers_peer,
    "transformers-float32": partial(transformers_peer, dtype="float32"),
    "llama.cpp": llama_cpp_peer,
}


def write_bfloat16(folder: Path, copy: Path) -> None:
    """Write the folder's model and tokenizer with weights in bfloat16."""
    from gpt2kit import AutoTokenizer
    from gpt2kit.checkpoint import open_checkpoint, save_checkpoint

    checkpoint = open_checkpoint(folder)
    weights = {name: checkpoint.float32(name) for name in checkpoint.names()}
    save_checkpoint(copy, weights, checkpoint.config, dtypes="BF16")
    AutoTokenizer.from_pretrained(folder).save_pretrained(copy)


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


def measure(name: str, folder: Path, threads: int, gguf: Path, prompt: int) -> dict[str, Any]:
    """Time one peer in this process; `ids` are greedy ids from a fixed prompt, to compare with the others."""
    start = time.perf_counter()
    peer = PEERS[name](folder, threads, gguf)
    load_s = time.perf_counter() - start
    rng = np.random.default_rng()

    def timed(run: Callable[..., Any], length: int, *arguments: int) -> float:
        ids = rng.integers(0, 50000, length).tolist()
        begin = time.perf_counter()
        run(ids, *arguments)
        return time.perf_counter() - begin

    fixed = np.random.default_rng(0).integers(0, 50000, prompt).tolist()
    ids = peer.generate(fixed, 16)
    timed(peer.prefill, PREFILL)
    timed(peer.generate, prompt, DECODE + 1)
    prefill_s = statistics.median(timed(peer.prefill, PREFILL) for _ in range(RUNS))
    decode_s = statistics.median(
        (timed(peer.generate, prompt, DECODE + 1) - timed(peer.generate, prompt, 1)) / DECODE
        for _ in range(RUNS)
    )
    return {
        "peer": name,
        "threads": threads,
        "load_s": round(load_s, 3),
        "prefill_tokens_per_s": round(PREFILL / prefill_s, 1),
        "decode_tokens_per_s": round(1 / decode_s, 1),
        "rss_mb": peak_rss_bytes() // 2**20,
        "ids": ids,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peers", default="gpt2kit,transformers,llama.cpp")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--prompt", type=int, default=PROMPT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--one", choices=PEERS)
    parser.add_argument("--gguf", type=Path)
    args = parser.parse_args()
    if args.one:
        gguf = args.gguf or Path("model.gguf")
        print(json.dumps(measure(args.one, args.folder, args.threads, gguf, args.prompt)))
        return

    names = args.peers.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        gguf = args.gguf or Path(temporary) / "model.gguf"
        folder = args.folder
        if args.dtype == "bfloat16":
            folder = Path(temporary) / "bfloat16"
            write_bfloat16(args.folder, folder)
        if "llama.cpp" in names:
            write_gguf(args.folder, gguf)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _ in range(args.rounds):
            for name in names:
                command = [sys.executable, __file__, str(folder), "--one", name, "--gguf", str(gguf),
                           "--threads", str(args.threads), "--prompt", str(args.prompt)]  # fmt: skip
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                runs[name].append(json.loads([line for line in out.splitlines() if line.startswith("{")][-1]))

    expected = runs[names[0]][0]["ids"]
    for name in names:
        must_agree = args.dtype == "float32" or {name, names[0]} <= {*COMPUTE_IN_FLOAT32}
        if must_agree and runs[name][0]["ids"] != expected:
            sys.exit(f"{name} generates {runs[name][0]['ids']}, {names[0]} {expected}: nothing to time")
    keys = ["prefill_tokens_per_s", "decode_tokens_per_s", "load_s", "rss_mb"]
    medians = {
        name: {key: statistics.median(run[key] for run in runs[name]) for key in keys} for name in names
    }
    first = medians[names[0]]
    lines = [
        f"{args.dtype} file, prompt of {args.prompt}, {args.threads} threads, medians of {args.rounds} rounds in turn; Python {platform.python_version()}",
        "",
        f"| engine | prefill tok/s | decode tok/s | load s | peak RSS MB | {names[0]} prefill, decode |",
        "|---|---|---|---|---|---|",
    ]
    for name, m in medians.items():
        ratio = "" if name == names[0] else (
            f"{first[keys[0]] / m[keys[0]]:.2f}x, {first[keys[1]] / m[keys[1]]:.2f}x"
        )  # fmt: skip
        lines.append(
            f"| {name} | {m[keys[0]]:.0f} | {m[keys[1]]:.1f} | {m[keys[2]]:.2f} | {m[keys[3]]:.0f} | {ratio} |"
        )
    print("\n".join(lines))
    if args.save:
        what = "engine" if args.dtype == "float32" else f"engine_{args.dtype}"
        save_results(args.save, what, lines, {"runs": runs, "medians": medians})


if __name__ == "__main__":
    main()
