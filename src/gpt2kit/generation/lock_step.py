"""LockStepLoop: all rows grow together, for processors and criteria that look at the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

from gpt2kit.generation.batch import BatchCriterion, BatchProcessor
from gpt2kit.generation.processors.chain import Scores, process
from gpt2kit.generation.protocol import Output
from gpt2kit.generation.row_loop import Row, RowLoop


class LockStepLoop(RowLoop):
    """The plain loop over all rows at once."""

    def run(self, max_rows: int) -> list[Row]:
        """Return all rows, prompt by prompt; max_rows does not count, as no row may wait."""
        self._together = [c for c in self.stopping_criteria if isinstance(c, BatchCriterion)]
        self.stopping_criteria = [c for c in self.stopping_criteria if not isinstance(c, BatchCriterion)]
        return super().run(self.num_rows)

    def choose_all(self, rows: Sequence[Row], outputs: Sequence[Output]) -> list[tuple[int, Scores]]:
        """Return the next token of each row and the scores that it was chosen from."""
        scores = [self.logits(output) for output in outputs]
        starts = [0] * len(rows)
        while any(start < len(row.chain) for start, row in zip(starts, rows, strict=True)):
            # A chain holds the same batch processors as any other, in the same order.
            ends = [_next_batch(row, start) for start, row in zip(starts, rows, strict=True)]
            scores = [
                process(row.chain[start:end], row.ids, row_scores)
                for row, start, end, row_scores in zip(rows, starts, ends, scores, strict=True)
            ]
            if ends[0] < len(rows[0].chain):
                batch = rows[0].chain[ends[0]]
                assert isinstance(batch, BatchProcessor)
                scores = batch.process_rows(rows, scores)
            starts = [end + 1 for end in ends]
        return [
            (self.pick(row, len(row.ids), row_scores), row_scores)
            for row, row_scores in zip(rows, scores, strict=True)
        ]

    def append_all(self, rows: Sequence[Row], chosen: Sequence[tuple[int, Scores]]) -> list[bool]:
        """Append each row's token and say which rows end with it."""
        is_done = super().append_all(rows, chosen)
        for criterion in self._together:
            answers = criterion.stop_rows(rows)
            is_done = [done or answer for done, answer in zip(is_done, answers, strict=True)]
        return is_done


def _next_batch(row: Row, start: int) -> int:
    """Index of the row's next batch processor, or the end of its chain."""
    for index in range(start, len(row.chain)):
        if isinstance(row.chain[index], BatchProcessor):
            return index
    return len(row.chain)
