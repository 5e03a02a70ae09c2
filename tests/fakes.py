"""Stand-ins for an engine and a tokenizer: tiny, deterministic, and watched for leaks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gpt2kit.config import GPT2Config
from gpt2kit.generation import Output


class FakeSequence:
    """Token ids in place of cached keys and values."""

    def __init__(self, engine: FakeEngine, ids: list[int] | None = None) -> None:
        self._engine = engine
        self.ids = list(ids or [])
        self.is_freed = False
        engine.num_alive += 1

    @property
    def length(self) -> int:
        return len(self.ids)

    def fork(self) -> FakeSequence:
        return FakeSequence(self._engine, self.ids)

    def truncate(self, length: int) -> None:
        del self.ids[length:]

    def free(self) -> None:
        assert not self.is_freed, "freed twice"
        self.is_freed = True
        self._engine.num_alive -= 1


@dataclass
class FakeEngine:
    """Logits are a fixed pseudo-random function of all ids so far, so every id matters to what follows."""

    config: GPT2Config = field(
        default_factory=lambda: GPT2Config(
            vocab_size=50, n_positions=64, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0
        )
    )
    num_alive: int = 0
    batch_sizes: list[int] = field(default_factory=list)

    def new_sequence(self) -> FakeSequence:
        return FakeSequence(self)

    def forward(self, work, *, logits="last", hidden=False, phase="prefill"):
        assert all(ids for _, ids in work)
        self.batch_sizes.append(len(work))
        outputs = []
        for sequence, ids in work:
            assert not sequence.is_freed
            start = len(sequence.ids)
            sequence.ids.extend(ids)
            states = np.eye(8, dtype=np.float32)[np.array(ids) % 8] if hidden else None
            ends = {"last": [len(sequence.ids)], "all": range(start + 1, len(sequence.ids) + 1)}.get(
                logits, []
            )
            rows = [self.logits(sequence.ids[:end]) for end in ends]
            scores = np.stack(rows) if logits == "all" else rows[0] if rows else None
            outputs.append(Output(logits=scores, hidden=states))
        return outputs

    def logits(self, ids: list[int]) -> np.ndarray:
        rng = np.random.default_rng(list(ids))
        return rng.normal(0.0, 3.0, self.config.vocab_size).astype(np.float32)


class ScriptedEngine(FakeEngine):
    """Always prefers a given continuation: script[n] is the best token after n tokens."""

    def __init__(self, script: dict[int, int] | list[int], **kwargs) -> None:
        super().__init__(**kwargs)
        self._script = script

    def logits(self, ids: list[int]) -> np.ndarray:
        scores = np.zeros(self.config.vocab_size, dtype=np.float32)
        scores[self._script[len(ids)]] = 10.0
        return scores


class FakeTokenizer:
    """One token a character, two for "é", whose bytes no token holds together; id 0 is the end token."""

    PIECES = (
        b"<end>",
        *(bytes([c]) for c in b"abcdefghijklmnopqrstuvwxyz .,!?\nABCDEFGHIJKLMNO"),
        b"\xc3",
        b"\xa9",
    )
    errors = "replace"
    all_special_ids = (0,)

    def __len__(self) -> int:
        return len(self.PIECES)

    def __call__(self, text, **options):
        self.last_options = options
        ids = self.encode(text)
        if options.get("truncation"):
            ids = ids[: options["max_length"]]
        return {"input_ids": ids}

    def encode(self, text: str) -> list[int]:
        return [self.PIECES.index(bytes([byte])) for byte in text.encode()]

    def decode_bytes(self, ids, *, skip_special_tokens=False) -> bytes:
        return b"".join(self.PIECES[i] for i in ids if not (skip_special_tokens and i == 0))

    def decode(self, ids, skip_special_tokens=False, clean_up_tokenization_spaces=None) -> str:
        return self.decode_bytes(ids, skip_special_tokens=skip_special_tokens).decode("utf-8", "replace")


def write_tiny_model(folder, head=None, **options) -> None:
    """Write a GPT-2 of random weights with a vocabulary of the 256 bytes, a few merges and the end token.

    head: "score", "classifier" or "qa_outputs" for one more head, with as many outputs as it has labels.
    """
    import json

    from gpt2kit.checkpoint import save_checkpoint

    # GPT-2's spelling of bytes: printable ones as they are, the others from U+0100 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    spelling = {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}
    space = spelling[32]
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), (space, "w")]
    tokens = (
        [spelling[b] for b in [*printable, *others]] + ["".join(pair) for pair in merges] + ["<|endoftext|>"]
    )
    end = len(tokens) - 1
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 128, "vocab_size": len(tokens)}
    config = GPT2Config(**sizes, bos_token_id=end, eos_token_id=end, **options)
    rng = np.random.default_rng(0)
    width = config.n_embd

    def weight(*shape):
        return rng.normal(0, 0.5, shape).astype(np.float32)

    tensors = {
        "wte.weight": weight(config.vocab_size, width),
        "wpe.weight": weight(config.n_positions, width),
    }
    norms = ["ln_f"]
    for layer in range(config.n_layer):
        norms += [f"h.{layer}.ln_1", f"h.{layer}.ln_2"]
        for name, rows, columns in [
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ]:
            tensors[f"h.{layer}.{name}.weight"] = weight(rows, columns)
            tensors[f"h.{layer}.{name}.bias"] = weight(columns)
    for name in norms:
        tensors[f"{name}.weight"] = np.ones(width, dtype=np.float32)
        tensors[f"{name}.bias"] = np.zeros(width, dtype=np.float32)
    if head is not None:
        num_outputs = 2 if head == "qa_outputs" else config.num_labels
        tensors[f"{head}.weight"] = weight(num_outputs, width)
        if head != "score":
            tensors[f"{head}.bias"] = weight(num_outputs)
    save_checkpoint(folder, tensors, config)
    folder.joinpath("vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    folder.joinpath("merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
