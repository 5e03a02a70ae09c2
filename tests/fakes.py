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
        engine.num_alive += 1

    @property
    def length(self) -> int:
        return len(self.ids)

    def fork(self) -> FakeSequence:
        return FakeSequence(self._engine, self.ids)

    def truncate(self, length: int) -> None:
        del self.ids[length:]

    def free(self) -> None:
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

    def forward(self, work, *, logits="last", hidden=False):
        assert logits == "last" and not hidden
        assert all(ids for _, ids in work)
        self.batch_sizes.append(len(work))
        outputs = []
        for sequence, ids in work:
            sequence.ids.extend(ids)
            outputs.append(Output(logits=self.logits(sequence.ids)))
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

    PIECES = (b"<end>", *(bytes([c]) for c in b"abcdefghijklmnopqrstuvwxyz .,!?\nABCDEFGHIJKLMNO"), b"\xc3", b"\xa9")
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
