"""Classifier-free guidance: the unconditional rows that run beside the conditional ones on the same engine."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2kit.generation.processors.penalties import mix_guidance
from gpt2kit.generation.processors.scores import Scores
from gpt2kit.generation.protocol import Engine
from gpt2kit.generation.protocol import Sequence as CachedSequence

# (prompt index, new ids)
_Key = tuple[int, tuple[int, ...]]


class Guidance:
    """Gives the scores of a text without its prompt, and mixes them in.

    A row without its prompt is the prompt's negative prompt followed by the row's new ids, so it depends on
    these ids only: rows may be forked, reordered and dropped without a word to this class. Each row whose
    predecessor is cached costs one token; any other is run from its beginning.
    """

    def __init__(self, engine: Engine, scale: float, negative_prompts: Sequence[Sequence[int]]) -> None:
        """Take a negative prompt, not empty, for each prompt; scale 1 would change nothing."""
        self._engine = engine
        self._scale = scale
        self._negative_prompts = negative_prompts
        self._sequences: dict[_Key, CachedSequence] = {}
        self._logits: dict[_Key, Scores] = {}

    def mix(self, prompt_index: int, new_ids: Sequence[int], scores: Scores) -> Scores:
        """Return the mixed log probabilities (V,) of a row's next token; see penalties.mix_guidance."""
        key = (prompt_index, tuple(new_ids))
        if key not in self._logits:
            self._run({key: self._start(key, keep_parent=True)})
            self._drop(
                [old for old in self._sequences if old[0] == prompt_index and len(old[1]) < len(new_ids) - 1]
            )
        return mix_guidance(scores, self._logits[key], self._scale)

    def advance(self, rows: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Run all rows (prompt index, new ids) that are alive in one forward pass; others are forgotten.

        Not needed, but faster than a pass for each row.
        """
        keys = list(dict.fromkeys((prompt_index, tuple(new_ids)) for prompt_index, new_ids in rows))
        missing = [key for key in keys if key not in self._logits]
        num_children: dict[_Key, int] = {}
        for prompt_index, ids in missing:
            parent = (prompt_index, ids[:-1])
            num_children[parent] = num_children.get(parent, 0) + 1
        work = {}
        for key in missing:
            parent = (key[0], key[1][:-1])
            num_children[parent] -= 1
            work[key] = self._start(key, keep_parent=num_children[parent] > 0 or parent in keys)
        self._run(work)
        self._drop([old for old in self._sequences if old not in keys])

    def free(self) -> None:
        """Give all caches back."""
        self._drop(list(self._sequences))

    def _start(self, key: _Key, *, keep_parent: bool) -> list[int]:
        """Give a row a sequence and return the ids that it has not seen."""
        prompt_index, ids = key
        parent = (prompt_index, ids[:-1])
        if not ids or parent not in self._sequences:
            self._sequences[key] = self._engine.new_sequence()
            return [*self._negative_prompts[prompt_index], *ids]
        if keep_parent:
            self._sequences[key] = self._sequences[parent].fork()
        else:
            self._sequences[key] = self._sequences.pop(parent)
            self._logits.pop(parent)
        return [ids[-1]]

    def _run(self, work: dict[_Key, list[int]]) -> None:
        if not work:
            return
        outputs = self._engine.forward(
            [(self._sequences[key], ids) for key, ids in work.items()],
            phase=["decode" if self._sequences[key].length > 0 else "prefill" for key in work],
        )
        for key, output in zip(work, outputs, strict=True):
            assert output.logits is not None
            self._logits[key] = output.logits

    def _drop(self, keys: Sequence[_Key]) -> None:
        for key in keys:
            self._sequences.pop(key).free()
            self._logits.pop(key, None)
