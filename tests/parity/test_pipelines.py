"""Pipelines give what Transformers' pipelines give at equal weights, over random models and many options."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gpt2_vocabulary import write_gpt2_vocabulary  # noqa: E402
from gpt2kit import pipeline  # noqa: E402
from gpt2kit.errors import PipelineError  # noqa: E402

LENGTH = 64
TEXTS = [
    "Anne Elliot lives in Bath, and Captain Wentworth doesn't; he's at sea: na\u00efve caf\u00e9 \u65e5\u672c.",
    "good film",
    "It was a long  and quite boring evening,\nreally",
    " x",
]
LONG = " ".join(TEXTS * 3)
TEMPLATE = (
    "{% for m in messages %}<{{m.role}}>{{m.content}}{% if not loop.last %}\n{% endif %}{% endfor %}"
    "{% if tools %}T{{tools|tojson}}{% endif %}{% if documents %}D{{documents|length}}{% endif %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NER = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
MODELS = {
    "feature-extraction": "GPT2Model",
    "text-classification": "GPT2ForSequenceClassification",
    "zero-shot-classification": "GPT2ForSequenceClassification",
    "token-classification": "GPT2ForTokenClassification",
    "text-generation": "GPT2LMHeadModel",
}

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Make the same pipeline twice, theirs and ours; the caller names the task and the configuration."""

    def make(task: str, *, seed: int = 0, tokenizer: dict[str, Any] | None = None, ours=None, **config):
        rng = random.Random(seed)
        sizes = {
            "n_layer": rng.randint(1, 3),
            "n_head": (heads := rng.randint(1, 3)),
            "n_embd": 8 * heads,
            "n_positions": LENGTH,
            "activation_function": rng.choice(["gelu_new", "relu", "gelu"]),
            "scale_attn_by_inverse_layer_idx": rng.random() < 0.3,
            "initializer_range": 0.4,
        }
        torch.manual_seed(seed)
        folder: Path = tmp_path_factory.mktemp(task)
        write_gpt2_vocabulary(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = getattr(transformers, MODELS[task])(transformers.GPT2Config(**sizes | config)).eval()
            model.save_pretrained(folder)
            options = {"model_max_length": LENGTH, **(tokenizer or {})}
            theirs = transformers.GPT2Tokenizer.from_pretrained(folder, **options)
            options.pop("pad_token", None)  # rows are never padded here
            return (
                transformers.pipeline(task, model=model, tokenizer=theirs),
                pipeline(task, model=folder, tokenizer=(folder, options), **(ours or {})),
            )

    return make


def assert_same(given: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        assert given.keys() == expected.keys(), where
        for key in expected:
            assert_same(given[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert isinstance(given, list), where
        assert len(given) == len(expected), where
        for i, (a, b) in enumerate(zip(given, expected, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif expected is None or isinstance(expected, (str, int)):
        assert given == expected, where
    else:
        assert abs(float(given) - float(expected)) < 1e-5 * max(1.0, abs(float(expected))), where


def labels(names: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


@pytest.mark.parametrize("seed", range(3))
def test_feature_extraction(make, seed):
    theirs, ours = make("feature-extraction", seed=seed)
    for inputs in (TEXTS[0], TEXTS, TEXTS[:1]):
        assert_same(ours(inputs), theirs(inputs))
    assert_same(ours(LONG, truncation=True), theirs(LONG, truncation=True))
    inner = {"truncation": True, "max_length": 5}
    assert_same(ours(LONG, tokenize_kwargs=inner), theirs(LONG, tokenize_kwargs=dict(inner)))
    tensor = ours(TEXTS[0], return_tensors=True)
    assert torch.is_tensor(tensor)
    assert torch.allclose(tensor, theirs(TEXTS[0], return_tensors=True), atol=1e-5)
    assert (ours(TEXTS[0], return_tensors="np") == tensor.numpy()).all()


PAIR = {"text": TEXTS[1], "text_pair": TEXTS[2]}


@pytest.mark.parametrize(
    "config",
    [
        {"num_labels": 3},
        {"num_labels": 1},
        {"num_labels": 4, "problem_type": "multi_label_classification"},
        {"num_labels": 3, "problem_type": "regression"},
        {"num_labels": 2, "problem_type": "single_label_classification"},
    ],
    ids=lambda config: config.get("problem_type", str(config["num_labels"])),
)
def test_text_classification(make, config):
    theirs, ours = make("text-classification", seed=config["num_labels"], **config)
    for options in (
        {},
        {"top_k": 1},
        {"top_k": 2},
        {"top_k": None},
        {"top_k": 99},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "softmax", "top_k": None},
        {"function_to_apply": "NONE"},
    ):
        for inputs in (TEXTS[0], TEXTS, TEXTS[:1], PAIR, [PAIR, {"text": "a"}], [[["a", "b c"]]]):
            assert_same(ours(inputs, **options), theirs(inputs, **options), f"{options} {inputs}")
    for options in ({"truncation": True}, {"truncation": True, "max_length": 3}):
        assert_same(ours(LONG, **options), theirs(LONG, **options))
    assert_same(list(ours(text for text in TEXTS)), list(theirs(text for text in TEXTS)))


def test_options_of_a_text_classification_pipeline_hold_for_its_calls(make):
    for options in ({"top_k": 2}, {"top_k": None}, {"function_to_apply": "none"}):
        theirs, ours = make("text-classification", ours=options, num_labels=3)
        theirs = transformers.pipeline(
            "text-classification", model=theirs.model, tokenizer=theirs.tokenizer, **options
        )
        for inputs in (TEXTS[0], TEXTS):
            assert_same(ours(inputs), theirs(inputs))


@pytest.mark.parametrize(
    "names", [("contradiction", "neutral", "ENTAILMENT"), ("entail", "no"), ("a", "b")], ids=str
)
def test_zero_shot_classification(make, names):
    theirs, ours = make("zero-shot-classification", seed=len(names), **labels(names))
    for options in (
        {"candidate_labels": "red, green,blue"},
        {"candidate_labels": ["one"]},
        {"candidate_labels": ["a", "b", "c"], "multi_label": True},
        {"candidate_labels": ["a", "b"], "hypothesis_template": "I say {}!"},
    ):
        for inputs in (TEXTS[0], TEXTS[1:], TEXTS[:1], LONG):
            assert_same(ours(inputs, **options), theirs(inputs, **options), f"{options} {inputs}")
    assert_same(ours(TEXTS[0], ["q", "r"]), theirs(TEXTS[0], ["q", "r"]))


STRATEGIES = ["none", "simple", "first", "average", "max"]
WORDS = ["Anne", "Elliot", "lives", "in", "Bath,", "don't", "\u65e5\u672c"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_token_classification(make, strategy):
    theirs, ours = make(
        "token-classification", seed=7, tokenizer={"pad_token": "<|endoftext|>"}, **labels(NER)
    )
    for ignored in ({}, {"ignore_labels": []}, {"ignore_labels": ["O", "PER", "B-PER"]}):
        options = {"aggregation_strategy": strategy, **ignored}
        for inputs in (TEXTS[0], TEXTS, TEXTS[:1], LONG, "Anne<|endoftext|> b  c"):
            assert_same(ours(inputs, **options), theirs(inputs, **options), f"{options} {inputs}")
        for stride in (0, 3, 30) if strategy != "none" else ():
            given = ours([LONG, TEXTS[0]], stride=stride, **options)
            assert_same(given, theirs([LONG, TEXTS[0]], stride=stride, **options), f"{options} {stride}")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_token_classification_of_words(make, strategy):
    theirs, ours = make("token-classification", tokenizer={"add_prefix_space": True}, **labels(NER))
    options = {"aggregation_strategy": strategy, "ignore_labels": [], "is_split_into_words": True}
    assert_same(ours(WORDS, **options), theirs(WORDS, **options))
    for delimiter in (" ", "--", ""):
        given = ours([WORDS, WORDS[:2]], delimiter=delimiter, **options)
        assert_same(given, theirs([WORDS, WORDS[:2]], delimiter=delimiter, **options))


CHAT = [{"role": "user", "content": "hello you"}]
BEGUN = [*CHAT, {"role": "assistant", "content": "I am"}]


def test_text_generation(make):
    theirs, ours = make("text-generation", tokenizer={"chat_template": TEMPLATE})
    common = {"do_sample": False, "max_new_tokens": 3}
    for inputs in ("hello", ["hello", "b c"], ["a"], CHAT, BEGUN, [CHAT, BEGUN], [CHAT], ""):
        for options in (
            {},
            {"return_full_text": False},
            {"return_text": True},
            {"return_tensors": True},
            {"skip_special_tokens": False},
            {"stop_sequence": "e"},
            {"min_new_tokens": 2},
        ):
            where = f"{inputs} {options}"
            assert_same(ours(inputs, **common | options), theirs(inputs, **common | options), where)
    for inputs in (CHAT, [BEGUN, CHAT]):
        for options in (
            {"continue_final_message": True},
            {"continue_final_message": False},
            {"tools": [{"name": "f"}]},
            {"documents": [{"title": "a", "text": "b"}]},
        ):
            assert_same(ours(inputs, **common, **options), theirs(inputs, **common, **options), str(options))
    for prompt in ("hello", LONG):
        options = {"handle_long_generation": "hole", "max_new_tokens": 40, "do_sample": False}
        assert_same(ours(prompt, **options), theirs(prompt, **options))
    assert_same(list(ours((t for t in TEXTS), **common)), list(theirs((t for t in TEXTS), **common)))


@pytest.mark.parametrize(
    "options",
    [
        {"output_scores": True},
        {"output_logits": True, "return_full_text": False},
        {"output_scores": True, "output_logits": True, "return_tensors": True},
        {"num_beams": 3, "output_scores": True},
        {"num_beams": 4, "num_return_sequences": 2, "output_scores": True},
        {"num_beams": 2, "num_return_sequences": 1},
    ],
    ids=str,
)
def test_what_generation_keeps_is_in_the_records(make, options):
    theirs, ours = make("text-generation", seed=4)
    options = {"do_sample": False, "max_new_tokens": 3, **options}
    for inputs in ("hello", ["hello", "b c"]):
        given = ours(inputs, return_dict_in_generate=True, **options)
        assert_same(given, theirs(inputs, return_dict_in_generate=True, **options))
        plain = ours(inputs, **options)
        assert_same(plain, theirs(inputs, **options))


def test_an_assistant_changes_nothing_but_the_time(make):
    theirs, ours = make("text-generation", seed=5)
    _, small = make("text-generation", seed=6)
    for inputs in ("hello", TEXTS):
        options = {"do_sample": False, "max_new_tokens": 12}
        assert_same(ours(inputs, assistant_model=small.engine, **options), theirs(inputs, **options))


def test_text_generation_with_a_prefix_and_a_total_length(make):
    theirs, ours = make("text-generation")
    for options in (
        {"max_length": 9, "prefix": "Well, "},
        {"min_length": 8, "max_length": 12, "prefix": "a b"},
    ):
        options |= {"do_sample": False}
        assert_same(ours("hello", **options), theirs("hello", **options), str(options))


class Column(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return len(TEXTS)

    def __getitem__(self, index: int) -> dict[str, str]:
        return {"text": TEXTS[index]}


@pytest.mark.parametrize("task", ["text-generation", "text-classification", "token-classification"])
def test_datasets(make, task):
    from transformers.pipelines.pt_utils import KeyDataset

    theirs, ours = make(task)
    options = {"do_sample": False, "max_new_tokens": 3} if task == "text-generation" else {}
    data = KeyDataset(Column(), "text")
    results = ours(data, batch_size=3, **options)
    assert len(results) == len(TEXTS)
    assert_same(list(results), list(theirs(data, **options)))


@pytest.mark.parametrize("task", [task for task in MODELS if task != "text-generation"])
def test_a_torch_model_of_transformers_can_be_given(make, task):
    theirs, _ = make(task, **labels(NER))
    ours = pipeline(task, model=theirs.model, tokenizer=theirs.tokenizer)
    options = {"candidate_labels": ["a", "b"]} if task == "zero-shot-classification" else {}
    assert_same(ours(TEXTS, **options), theirs(TEXTS, **options))


def test_generation_needs_a_model_of_ours(make):
    theirs, _ = make("text-generation")
    with pytest.raises(
        PipelineError, match=r"a transformers.* GPT2LMHeadModel.*use gpt2kit's GPT2LMHeadModel"
    ):
        pipeline("text-generation", model=theirs.model, tokenizer=theirs.tokenizer)


def test_transformers_reads_a_saved_pipeline(make, tmp_path):
    _, ours = make("text-classification", num_labels=3)
    ours.save_pretrained(tmp_path)
    theirs = transformers.pipeline("text-classification", model=str(tmp_path))
    assert_same(ours(TEXTS, top_k=None), theirs(TEXTS, top_k=None))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_models_texts_and_options(make, seed):
    rng = random.Random(seed)
    pieces = [
        "a",
        "the",
        " ",
        "  ",
        "\n",
        "Bath",
        "don't",
        "\u00e9",
        "\u65e5",
        ".",
        ", ",
        "<|endoftext|>",
        "42",
    ]
    texts = ["x" + "".join(rng.choices([*pieces, " well"], k=rng.randint(1, 30))) for _ in range(5)]
    task = rng.choice(["text-classification", "zero-shot-classification", "token-classification"])
    names = [f"{prefix}{name}" for name in "ABC" for prefix in rng.choice([("B-", "I-"), ("",)])]
    theirs, ours = make(task, seed=seed, tokenizer={"pad_token": "<|endoftext|>"}, **labels(tuple(names)))
    options: dict[str, Any] = {
        "text-classification": lambda: {
            "top_k": rng.choice([None, 1, 3]),
            "function_to_apply": rng.choice(["none", "sigmoid", "softmax"]),
            "truncation": True,
        },
        "zero-shot-classification": lambda: {
            "candidate_labels": rng.sample(pieces[:10], 4),
            "multi_label": rng.random() < 0.5,
        },
        "token-classification": lambda: {
            "aggregation_strategy": rng.choice(STRATEGIES[1:]),
            "ignore_labels": rng.sample(["A", "B", "C"], rng.randint(0, 2)),
            "stride": rng.choice([0, 5, 40]),
        },
    }[task]()
    for inputs in (texts[0], texts):
        assert_same(ours(inputs, **options), theirs(inputs, **options), f"{inputs} {options}")
