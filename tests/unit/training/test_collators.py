"""Data collators: the batches of Transformers' collators of the same names and arguments."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import gpt2kit
from gpt2kit.errors import TrainingError


@pytest.fixture(scope="module")
def tokenizers() -> tuple[Any, Any]:
    """Our tokenizer and Transformers' over one folder, both with a padding token."""
    folder = gpt2kit.builtin.path()
    pair = gpt2kit.AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    for tokenizer in pair:
        tokenizer.pad_token = tokenizer.eos_token
    return pair


def assert_equal_batches(ours: Any, theirs: Any) -> None:
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        if isinstance(expected, int):
            assert ours[name] == expected, name
            continue
        assert type(ours[name]) is type(expected), name
        assert ours[name].dtype == expected.dtype, name
        assert ours[name].tolist() == expected.tolist(), name


def random_rows(draw: random.Random, *, labels: str | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for _ in range(draw.randint(1, 5)):
        ids = [draw.randrange(50) for _ in range(draw.randint(1, 9))]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids)})
        if labels == "tokens":
            rows[-1]["labels"] = [draw.randrange(3) for _ in ids]
        elif labels is not None:
            rows[-1][labels] = draw.randrange(3)
    return rows


@pytest.mark.parametrize("kind", ["pt", "np"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches(tokenizers: tuple[Any, Any], kind: str, side: str) -> None:
    draw = random.Random(f"{kind} {side}")
    for tokenizer in tokenizers:
        tokenizer.padding_side = side
    for _ in range(15):
        options: dict[str, Any] = {
            "padding": draw.choice([True, "longest", "max_length"]),
            "pad_to_multiple_of": draw.choice([None, 4]),
            "return_tensors": kind,
        }
        if options["padding"] == "max_length":
            options["max_length"] = 12
        for name, labels in [
            ("DataCollatorWithPadding", draw.choice([None, "label", "label_ids", "labels"])),
            ("DataCollatorForTokenClassification", draw.choice([None, "tokens"])),
        ]:
            rows = random_rows(draw, labels=labels)
            ours, theirs = (
                getattr(library, name)(tokenizer, **options)(rows)
                for library, tokenizer in zip((gpt2kit, transformers), tokenizers, strict=True)
            )
            assert_equal_batches(ours, theirs)


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_language_modeling(tokenizers: tuple[Any, Any], kind: str) -> None:
    draw = random.Random(kind)
    for tokenizer in tokenizers:
        tokenizer.padding_side = "right"
    for _ in range(15):
        rows: Any = random_rows(draw)
        rows[0]["input_ids"][0] = tokenizers[
            0
        ].pad_token_id  # an end of text, which is the padding token here
        if draw.random() < 0.4:
            rows = [row["input_ids"] for row in rows]
        options = {"mlm": False, "pad_to_multiple_of": draw.choice([None, 3]), "return_tensors": kind}
        ours, theirs = (
            library.DataCollatorForLanguageModeling(tokenizer, **options)(rows)
            for library, tokenizer in zip((gpt2kit, transformers), tokenizers, strict=True)
        )
        assert_equal_batches(ours, theirs)


def test_masked_language_modeling_is_refused(tokenizers: tuple[Any, Any]) -> None:
    with pytest.raises(TrainingError, match="pass mlm=False"):
        gpt2kit.DataCollatorForLanguageModeling(tokenizers[0])


def test_multiple_choice(tokenizers: tuple[Any, Any]) -> None:
    rows = [
        {"input_ids": [[1, 2], [3]], "attention_mask": [[1, 1], [1]], "label": 1},
        {"input_ids": [[4], [5, 6, 7]], "attention_mask": [[1], [1, 1, 1]], "label": 0},
    ]
    ours, theirs = (
        library.DataCollatorForMultipleChoice(tokenizer)(rows)
        for library, tokenizer in zip((gpt2kit, transformers), tokenizers, strict=True)
    )
    assert_equal_batches(ours, theirs)


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_flattening(kind: str) -> None:
    draw = random.Random(kind)
    for _ in range(15):
        rows = [
            {name: value for name, value in row.items() if name != "attention_mask"}
            for row in random_rows(draw, labels=draw.choice([None, "tokens"]))
        ]
        options = {
            "return_tensors": kind,
            "return_position_ids": draw.random() < 0.8,
            "separator_id": draw.choice([-100, 7]),
            "return_flash_attn_kwargs": draw.random() < 0.5,
            "return_seq_idx": draw.random() < 0.5,
            "position_ids_start": draw.choice([0, 2]),
        }
        ours, theirs = (
            library.DataCollatorWithFlattening(**options)(rows) for library in (gpt2kit, transformers)
        )
        assert_equal_batches(ours, theirs)


FEATURES = [
    [{"label": i, "inputs": [0, 1, 2]} for i in range(3)],
    [{"label": 0.5, "inputs": [0, 1]} for _ in range(2)],
    [{"label": torch.tensor(i), "inputs": torch.zeros(2, 2)} for i in range(2)],
    [{"label_ids": [0, 1, 2], "inputs": [0.0, 1.0], "name": "left out", "none": None} for _ in range(3)],
    [{"label_ids": torch.tensor([1, 2]), "inputs": np.zeros(3)} for _ in range(2)],
    [{"label": None, "label_ids": None, "inputs": [1]} for _ in range(2)],
    [SimpleNamespace(label=1, inputs=[1, 2]), SimpleNamespace(label=0, inputs=[3, 4])],
]


@pytest.mark.parametrize("features", FEATURES)
def test_default_batches(features: list[Any]) -> None:
    assert_equal_batches(
        gpt2kit.default_data_collator(features), transformers.default_data_collator(features)
    )
    ours, theirs = (library.DefaultDataCollator()(features) for library in (gpt2kit, transformers))
    assert_equal_batches(ours, theirs)


@pytest.mark.parametrize(
    "features",
    [FEATURES[0], FEATURES[1], [{"label_ids": np.array([1, 2]), "x": np.ones(2)} for _ in range(2)]],
)
def test_default_batches_in_numpy(features: list[Any]) -> None:
    ours, theirs = (library.default_data_collator(features, "np") for library in (gpt2kit, transformers))
    assert_equal_batches(ours, theirs)


def test_what_does_not_stack_is_named() -> None:
    with pytest.raises(TrainingError, match="input_ids of the examples do not make one tensor"):
        gpt2kit.default_data_collator([{"input_ids": [1, 2]}, {"input_ids": [1]}])
    with pytest.raises(TrainingError, match="return_tensors is 'tf'"):
        gpt2kit.default_data_collator([{"input_ids": [1]}], return_tensors="tf")
    with pytest.raises(TrainingError, match="no examples"):
        gpt2kit.default_data_collator([])


def test_rows_of_several_lengths_need_a_padding_token() -> None:
    tokenizer = gpt2kit.AutoTokenizer.from_pretrained(gpt2kit.builtin.path())
    tokenizer.pad_token = None
    collate = gpt2kit.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    assert collate([[1, 2], [3, 4]])["labels"].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(TrainingError, match=r"set tokenizer\.pad_token"):
        collate([[1, 2], [3]])
