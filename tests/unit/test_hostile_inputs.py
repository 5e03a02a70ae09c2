"""What users get wrong, in one table: each mistake gives one clear error through the public names.

Clear means: an error of ours, or a ValueError or TypeError, with a message that says what was given and what is
allowed; never an IndexError, KeyError, AttributeError, AssertionError or torch's own RuntimeError from below.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fakes import write_tiny_model
from gpt2kit.errors import GPT2Error

torch = pytest.importorskip("torch")

import gpt2kit  # noqa: E402  # after the check for torch

IDS = torch.tensor([[3, 1, 4], [1, 5, 9]])
SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 24, "vocab_size": 60}
TOKENS = {"bos_token_id": 59, "eos_token_id": 59}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the cases use: models of all heads, pipelines, a tokenizer, an engine and folders."""
    root = tmp_path_factory.mktemp("hostile")
    write_tiny_model(root / "lm")
    write_tiny_model(root / "classes", head="score", num_labels=3)
    write_tiny_model(root / "tags", head="classifier", num_labels=3)
    write_tiny_model(root / "answers", head="qa_outputs")
    (root / "empty").mkdir()
    write_tiny_model(root / "damaged")
    weights = root / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    write_tiny_model(root / "no json")
    (root / "no json" / "config.json").write_text("{")
    torch.manual_seed(0)

    def make(name: str, **options: Any) -> Any:
        return getattr(gpt2kit, name)(gpt2kit.GPT2Config(**SIZES, **TOKENS, **options)).eval()

    return SimpleNamespace(
        root=root,
        lm=make("GPT2LMHeadModel"),
        trunk=make("GPT2Model"),
        double=make("GPT2DoubleHeadsModel"),
        classes=make("GPT2ForSequenceClassification", num_labels=3, pad_token_id=0),
        regression=make("GPT2ForSequenceClassification", num_labels=1, pad_token_id=0),
        tags=make("GPT2ForTokenClassification", num_labels=3),
        answers=make("GPT2ForQuestionAnswering"),
        cross=make("GPT2LMHeadModel", add_cross_attention=True),
        tokenizer=gpt2kit.AutoTokenizer.from_pretrained(root / "lm"),
        engine=gpt2kit.load_engine(root / "lm"),
        pipe=gpt2kit.pipeline("text-generation", model=root / "lm"),
        judge=gpt2kit.pipeline("text-classification", model=root / "classes"),
        tagger=gpt2kit.pipeline("token-classification", model=root / "tags"),
        reader=gpt2kit.pipeline("question-answering", model=root / "answers"),
        features=gpt2kit.pipeline("feature-extraction", model=root / "lm"),
    )


def filled(here: Any, B: int = 2, T: int = 3) -> Any:
    """A cache with B rows of T positions of the language model."""
    return here.lm(torch.zeros(B, T, dtype=torch.long), use_cache=True).past_key_values


Case = Callable[[Any], Any]

# What is done -> what the message must say: what was given, or what is allowed.
FORWARD: dict[str, tuple[Case, str]] = {
    "ids of floats": (lambda h: h.lm(IDS.float()), "input_ids is torch.float32; give int64"),
    "ids of bools": (lambda h: h.lm(IDS > 2), "input_ids is torch.bool"),
    "ids too large": (lambda h: h.lm(IDS + 60), r"input_ids holds 69; allowed: 0 to 59"),
    "ids negative": (lambda h: h.lm(IDS - 4), r"input_ids holds -3; allowed: 0 to 59"),
    "ids in a list": (lambda h: h.lm([[1, 2]]), "input_ids"),
    "ids of numpy": (lambda h: h.lm(np.array([[1, 2]])), "input_ids"),
    "text for ids": (lambda h: h.lm("Hello"), "input_ids"),
    "one row without a batch": (lambda h: h.lm(IDS[0]), r"\(B, T\) is needed"),
    "an empty batch": (lambda h: h.lm(IDS[:0]), "which is empty; give at least one token"),
    "empty rows": (lambda h: h.lm(IDS[:, :0]), "which is empty"),
    "no input": (lambda h: h.lm(), "specify either input_ids or inputs_embeds"),
    "two inputs": (lambda h: h.lm(IDS, inputs_embeds=torch.zeros(2, 3, 16)), "give exactly one of them"),
    "embeddings too narrow": (lambda h: h.lm(inputs_embeds=torch.zeros(2, 3, 15)), r"\(B, T, 16\) is needed"),
    "embeddings of whole numbers": (
        lambda h: h.lm(inputs_embeds=torch.zeros(2, 3, 16, dtype=torch.long)),
        "inputs_embeds is torch.int64",
    ),
    "too long": (lambda h: h.lm(torch.zeros(1, 25, dtype=torch.long)), "n_positions is 24"),
    "too long behind a cache": (
        lambda h: h.lm(torch.zeros(2, 22, dtype=torch.long), past_key_values=filled(h)),
        "reaches position 25; n_positions is 24",
    ),
    "a mask too short": (lambda h: h.lm(IDS, attention_mask=torch.ones(2, 2)), "must cover 2 rows of 3"),
    "a mask without the cache": (
        lambda h: h.lm(IDS, past_key_values=filled(h), attention_mask=torch.ones(2, 3)),
        "of which 3 are cached",
    ),
    "a mask in a list": (lambda h: h.lm(IDS, attention_mask=[[1, 1, 1]] * 2), "attention_mask"),
    "a 4-D mask of ints": (
        lambda h: h.lm(IDS, attention_mask=torch.ones(2, 1, 3, 3, dtype=torch.long)),
        "give bool, True to see",
    ),
    "a 4-D mask too small": (
        lambda h: h.lm(IDS, attention_mask=torch.ones(2, 1, 3, 2, dtype=torch.bool)),
        r"\(2, 1, 3, 3\) is needed",
    ),
    "positions too large": (
        lambda h: h.lm(IDS, position_ids=torch.tensor([[0, 1, 24]])),
        "position_ids holds 24; allowed: 0 to 23",
    ),
    "positions too few": (lambda h: h.lm(IDS, position_ids=torch.tensor([[0, 1]])), r"\(2, 3\) is needed"),
    "token types too large": (
        lambda h: h.lm(IDS, token_type_ids=IDS + 60),
        "token_type_ids holds 69; allowed: 0 to 59",
    ),
    "token types of another shape": (
        lambda h: h.lm(IDS, token_type_ids=IDS[:, :2]),
        r"token_type_ids has the shape \(2, 2\)",
    ),
    "a head mask too long": (lambda h: h.lm(IDS, head_mask=torch.ones(3)), r"head_mask has the shape \(3,\)"),
    "a head mask for other rows": (
        lambda h: h.lm(IDS, head_mask=torch.ones(2, 3, 2, 3, 3)),
        r"head_mask has the shape \(2, 3, 2, 3, 3\)",
    ),
    "a cache of tuples": (
        lambda h: h.lm(IDS, past_key_values=((torch.zeros(2, 2, 1, 8),) * 2,) * 2),
        "past_key_values",
    ),
    "a cache of another batch": (lambda h: h.lm(IDS[:1], past_key_values=filled(h)), "2"),
    "an encoder without cross-attention": (
        lambda h: h.lm(IDS, encoder_hidden_states=torch.zeros(2, 4, 16)),
        "add_cross_attention=True",
    ),
    "an encoder of other rows": (
        lambda h: h.cross(IDS, encoder_hidden_states=torch.zeros(3, 4, 16)),
        r"\(2, S, 16\) is needed",
    ),
    "an encoder's mask of another shape": (
        lambda h: h.cross(
            IDS, encoder_hidden_states=torch.zeros(2, 4, 16), encoder_attention_mask=torch.ones(2, 3)
        ),
        r"\(2, 4\) is needed",
    ),
    "an encoder's mask alone": (lambda h: h.cross(IDS, encoder_attention_mask=torch.ones(2, 3)), "give both"),
    "negative logits_to_keep": (lambda h: h.lm(IDS, logits_to_keep=-1), "logits_to_keep is -1"),
    "logits_to_keep out of range": (
        lambda h: h.lm(IDS, logits_to_keep=torch.tensor([0, 3])),
        "logits_to_keep",
    ),
    "logits_to_keep of floats": (lambda h: h.lm(IDS, logits_to_keep=1.5), "logits_to_keep"),
    "an unknown argument": (lambda h: h.lm(IDS, atention_mask=IDS), "atention_mask"),
    "labels out of range": (
        lambda h: h.lm(IDS, labels=IDS + 60),
        "labels hold 6[0-9]; allowed: 0 to 59, and -100",
    ),
    "labels negative": (lambda h: h.lm(IDS, labels=IDS - 50), "labels hold -[0-9]+; allowed"),
    "labels too few": (lambda h: h.lm(IDS, labels=IDS[:, :2]), r"targets for \(2, 2\) positions"),
    "labels of floats": (lambda h: h.lm(IDS, labels=IDS.float()), "class numbers are integers"),
    "labels in a list": (lambda h: h.lm(IDS, labels=[[1, 2, 3]] * 2), "labels"),
    "a class out of range": (
        lambda h: h.classes(IDS, labels=torch.tensor([0, 3])),
        "labels hold 3; allowed: 0 to 2",
    ),
    "classes for other rows": (lambda h: h.classes(IDS, labels=torch.tensor([0])), r"\(2,\) is needed"),
    "a target that is not finite": (
        lambda h: h.regression(IDS, labels=torch.tensor([0.0, float("nan")])),
        "hold nan; allowed: finite numbers",
    ),
    "tags of floats": (lambda h: h.tags(IDS, labels=IDS.float()), "class numbers are integers"),
    "tags out of range": (lambda h: h.tags(IDS, labels=IDS), "labels hold [0-9]; allowed: 0 to 2"),
    "a start without an end's shape": (
        lambda h: h.answers(IDS, start_positions=torch.tensor([0, 1]), end_positions=torch.tensor([[1, 1]])),
        r"end_positions have the shape \(1, 2\); \(2,\) is needed",
    ),
    "a choice beyond the text": (
        lambda h: h.double(IDS[None], mc_token_ids=torch.tensor([[0, 3]])),
        "mc_token_ids reach from 0 to 3; allowed: 0 to 2",
    ),
    "choices of floats": (
        lambda h: h.double(IDS[None], mc_token_ids=torch.tensor([[0.5, 1.0]])),
        "mc_token_ids",
    ),
    "choices of another shape": (
        lambda h: h.double(IDS[None], mc_token_ids=torch.tensor([0, 1])),
        r"\(1, 2\) is needed",
    ),
    "a right choice that is none": (
        lambda h: h.double(IDS[None], mc_labels=torch.tensor([2])),
        "mc_labels hold 2; allowed: 0 to 1",
    ),
    "a vocabulary of no tokens": (lambda h: h.lm.resize_token_embeddings(0), "0"),
    "an attention that is not there": (lambda h: h.lm.set_attn_implementation("fast"), "fast"),
}

GENERATE: dict[str, tuple[Case, str]] = {
    "ids of floats": (lambda h: h.lm.generate(IDS.float()), "integers"),
    "ids in a list": (lambda h: h.lm.generate([[1, 2]]), "a tensor of integers"),
    "text": (lambda h: h.lm.generate("Hello"), "a tensor of integers"),
    "ids too large": (lambda h: h.lm.generate(IDS + 60), "holds token id 63; the vocabulary has ids 0 to 59"),
    "ids too large on torch": (
        lambda h: h.lm.generate(IDS + 60, engine="torch"),
        "holds token id 63; the vocabulary has",
    ),
    "ids negative": (lambda h: h.lm.generate(IDS - 10), "-"),
    "an empty batch": (lambda h: h.lm.generate(IDS[:0]), "empty"),
    "empty rows": (lambda h: h.lm.generate(IDS[:, :0]), "empty"),
    "one row without a batch": (lambda h: h.lm.generate(IDS[0]), r"integers \(B, T\) are needed"),
    "a mask of another shape": (
        lambda h: h.lm.generate(IDS, attention_mask=torch.ones(2, 2)),
        r"\(2, 3\) is needed",
    ),
    "a mask in a list": (lambda h: h.lm.generate(IDS, attention_mask=[[1, 1, 1]] * 2), "attention_mask"),
    "a mask of nothing": (lambda h: h.lm.generate(IDS, attention_mask=IDS * 0), "hides every"),
    "an unknown option": (lambda h: h.lm.generate(IDS, temprature=0.5), "temprature"),
    "a temperature of nan": (
        lambda h: h.lm.generate(IDS, do_sample=True, temperature=float("nan")),
        "temperature",
    ),
    "an infinite temperature": (
        lambda h: h.lm.generate(IDS, do_sample=True, temperature=float("inf")),
        "temperature",
    ),
    "a negative temperature": (lambda h: h.lm.generate(IDS, do_sample=True, temperature=-1.0), "temperature"),
    "a temperature in words": (
        lambda h: h.lm.generate(IDS, do_sample=True, temperature="hot"),
        "temperature",
    ),
    "top_p above 1": (lambda h: h.lm.generate(IDS, do_sample=True, top_p=1.5), "top_p"),
    "top_k below 0": (lambda h: h.lm.generate(IDS, do_sample=True, top_k=-1), "top_k"),
    "a penalty of 0": (lambda h: h.lm.generate(IDS, repetition_penalty=0.0), "repetition_penalty"),
    "no new tokens": (lambda h: h.lm.generate(IDS, max_new_tokens=0), "max_new_tokens"),
    "half a token": (lambda h: h.lm.generate(IDS, max_new_tokens=1.5), "max_new_tokens"),
    "a length below the prompt's": (lambda h: h.lm.generate(IDS, max_length=2), "`max_length` is set to 2"),
    "longer than the model": (lambda h: h.lm.generate(IDS, max_new_tokens=100), "n_positions"),
    "a way to be long that is none": (
        lambda h: h.lm.generate(IDS, long_generation="jump"),
        "long_generation",
    ),
    "more rows than beams": (
        lambda h: h.lm.generate(IDS, num_beams=2, num_return_sequences=3),
        "num_return_sequences",
    ),
    "many greedy rows": (lambda h: h.lm.generate(IDS, num_return_sequences=2), "num_return_sequences"),
    "groups that do not divide": (
        lambda h: h.lm.generate(IDS, num_beams=4, num_beam_groups=3, diversity_penalty=1.0),
        "num_beam_groups",
    ),
    "beams and contrastive search": (
        lambda h: h.lm.generate(IDS, num_beams=2, penalty_alpha=0.6, top_k=4),
        "penalty_alpha",
    ),
    "dola and sampled beams": (
        lambda h: h.lm.generate(IDS, dola_layers="low", num_beams=2),
        "dola_layers",
    ),
    "a layer that is not there": (lambda h: h.lm.generate(IDS, dola_layers=[7]), "dola_layers"),
    "beams and an assistant": (
        lambda h: h.lm.generate(IDS, assistant_model=h.lm, num_beams=2),
        "goes with greedy decoding and sampling only",
    ),
    "an assistant that is a name": (lambda h: h.lm.generate(IDS, assistant_model="gpt2"), "assistant_model"),
    "force words without beams": (lambda h: h.lm.generate(IDS, force_words_ids=[[1]]), "num_beams"),
    "a forced word that is no id": (
        lambda h: h.lm.generate(IDS, force_words_ids=[[99]], num_beams=2),
        "99",
    ),
    "a banned word that is no id": (lambda h: h.lm.generate(IDS, bad_words_ids=[[99]]), "99"),
    "an end token in words": (lambda h: h.lm.generate(IDS, eos_token_id="end"), "eos_token_id"),
    "a padding token that is no id": (lambda h: h.lm.generate(IDS, pad_token_id=-1), "pad_token_id"),
    "stop strings without a tokenizer": (lambda h: h.lm.generate(IDS, stop_strings=["."]), "tokenizer"),
    "seeds for other rows": (lambda h: h.lm.generate(IDS, do_sample=True, seed=[1, 2, 3]), "seed"),
    "a seed in words": (lambda h: h.lm.generate(IDS, do_sample=True, seed="one"), "seed"),
    "an engine that is none": (lambda h: h.lm.generate(IDS, engine="fast"), "'auto', 'native' or 'torch'"),
    "a cache that is none": (
        lambda h: h.lm.generate(IDS, cache_implementation="sliding"),
        "cache_implementation",
    ),
    "two caches": (
        lambda h: h.lm.generate(IDS, cache_implementation="static", past_key_values=filled(h)),
        "only one of the two",
    ),
    "a cache of other rows": (
        lambda h: h.lm.generate(torch.zeros(1, 5, dtype=torch.long), past_key_values=filled(h)),
        "holds 2 rows",
    ),
    "a cache longer than the ids": (
        lambda h: h.lm.generate(IDS, past_key_values=filled(h)),
        "append at least one",
    ),
    "a cache of tuples": (lambda h: h.lm.generate(IDS, past_key_values=((1, 2),)), "past_key_values"),
    "embeddings too narrow": (
        lambda h: h.lm.generate(inputs_embeds=torch.zeros(2, 3, 15)),
        r"\(B, T, 16\) is needed",
    ),
    "a configuration that is a dict": (
        lambda h: h.lm.generate(IDS, generation_config={"do_sample": True}),
        "generation_config",
    ),
    "a processor that is none": (lambda h: h.lm.generate(IDS, logits_processor=[3]), "logits_processor"),
    "a criterion that is none": (lambda h: h.lm.generate(IDS, stopping_criteria=[3]), "stopping_criteria"),
    "a streamer that is none": (lambda h: h.lm.generate(IDS, streamer=3), "streamer"),
    "guidance from another batch": (
        lambda h: h.lm.generate(IDS, guidance_scale=2.0, negative_prompt_ids=IDS[:1].repeat(3, 1)),
        "negative_prompt_ids",
    ),
    "a negative prompt's mask alone": (
        lambda h: h.lm.generate(IDS, guidance_scale=2.0, negative_prompt_attention_mask=IDS),
        "give both",
    ),
    "scores of a model in training": (
        lambda h: gpt2kit.GPT2LMHeadModel(h.lm.config).train().score(["a"], h.tokenizer),
        r"call model.eval\(\) first",
    ),
}

LOADING: dict[str, tuple[Case, str]] = {
    "a folder that is not there": (
        lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained("./nowhere/at/all"),
        "nowhere/at/all",
    ),
    "an empty folder": (lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(h.root / "empty"), "config.json"),
    "a file that ends early": (
        lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(h.root / "damaged"),
        "bytes",
    ),
    "a configuration that is no JSON": (
        lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(h.root / "no json"),
        "config.json",
    ),
    "a dtype that is none": (
        lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(h.root / "lm", dtype="float12"),
        "float12",
    ),
    "a dtype of whole numbers": (
        lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(h.root / "lm", dtype=torch.int8),
        "int8",
    ),
    "a device that is none": (
        lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(h.root / "lm", device_map="gpu"),
        "gpu",
    ),
    "a device map with holes": (
        lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(h.root / "lm", device_map={"lm_head": "cpu"}),
        "device_map",
    ),
    "an attention that is not there": (
        lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(h.root / "lm", attn_implementation="fast"),
        "fast",
    ),
    "a mistyped setting": (
        lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(h.root / "lm", n_layers=3),
        "did you mean 'n_layer'",
    ),
    "another shape": (
        lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(h.root / "lm", n_embd=32),
        "n_embd|shape",
    ),
    "code of strangers": (
        lambda h: gpt2kit.AutoModelForCausalLM.from_pretrained(h.root / "lm", trust_remote_code=True),
        "no code is ever fetched",
    ),
    "a name that is a number": (lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(7), "7"),
    "no name": (lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(None), "no model is named"),
    "heads that do not divide": (lambda h: gpt2kit.GPT2Config(n_embd=10, n_head=3), "n_head"),
    "layers in words": (lambda h: gpt2kit.GPT2Config(n_layer="two"), "n_layer"),
    "no vocabulary": (lambda h: gpt2kit.GPT2Config(vocab_size=0), "vocab_size"),
    "an activation that is none": (
        lambda h: gpt2kit.GPT2LMHeadModel(gpt2kit.GPT2Config(**SIZES, **TOKENS, activation_function="gleu")),
        "gleu",
    ),
    "8 and 4 bits": (
        lambda h: gpt2kit.BitsAndBytesConfig(load_in_8bit=True, load_in_4bit=True),
        "load_in_4bit",
    ),
    "bits of a type that is none": (
        lambda h: gpt2kit.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf5"),
        "nf5",
    ),
    "bits computed in words": (
        lambda h: gpt2kit.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype="half a float"),
        "half a float",
    ),
    "an unknown setting of bits": (lambda h: gpt2kit.BitsAndBytesConfig(load_in_4bits=True), "load_in_4bits"),
    "a threshold of nan": (
        lambda h: gpt2kit.BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=float("nan")),
        "llm_int8_threshold",
    ),
    "the bare switch of old": (
        lambda h: gpt2kit.GPT2LMHeadModel.from_pretrained(h.root / "lm", load_in_4bit=True),
        "quantization_config",
    ),
    "a static cache of no length": (
        lambda h: gpt2kit.StaticCache(h.lm.config, max_cache_len=0),
        "max_cache_len",
    ),
    "a static cache of half a position": (
        lambda h: gpt2kit.StaticCache(h.lm.config, max_cache_len=1.5),
        "max_cache_len",
    ),
    "a cache of 3 bits": (lambda h: gpt2kit.QuantizedCache(nbits=3), "nbits is 3"),
    "a cache in groups of none": (lambda h: gpt2kit.QuantizedCache(q_group_size=0), "q_group_size"),
    "a pair of caches that are none": (
        lambda h: gpt2kit.EncoderDecoderCache(1, 2),
        "a cache is needed twice",
    ),
    "cropping to the right": (lambda h: filled(h).crop(2.5), "crop|2.5"),
    "rows that a cache lacks": (lambda h: filled(h).reorder_cache(torch.tensor([0, 5])), "5"),
    "a generation option out of range": (lambda h: gpt2kit.GenerationConfig(top_p=2.0), "top_p"),
    "an engine that is none": (lambda h: gpt2kit.load_engine(h.root / "lm", engine="fast"), "fast"),
    "threads below 1": (lambda h: gpt2kit.load_engine(h.root / "lm", threads=0), "threads"),
    "an engine without a model": (lambda h: gpt2kit.load_engine(h.root / "empty"), "config.json"),
}

TEXT: dict[str, tuple[Case, str]] = {
    "a task that is none": (lambda h: gpt2kit.pipeline("translation"), "Unknown task translation"),
    "a number to continue": (lambda h: h.pipe(3), "3|int"),
    "nothing to continue": (lambda h: h.pipe(None), "None"),
    "a number among prompts": (lambda h: h.pipe(["a", 3]), "3|int"),
    "an unknown option of a call": (lambda h: h.pipe("a", max_tokens_new=3), "max_tokens_new"),
    "an option out of range": (lambda h: h.pipe("a", temperature=float("nan")), "temperature"),
    "two lengths of result": (
        lambda h: h.pipe("a", return_full_text=True, return_tensors=True),
        "return_full_text",
    ),
    "a prompt that is too long": (lambda h: h.pipe("a" * 200, max_new_tokens=2), "n_positions"),
    "a batch of no rows at once": (lambda h: h.pipe(iter(["a"]), batch_size=0), "batch_size"),
    "a chat without a template": (lambda h: h.pipe([{"role": "user", "content": "hi"}]), "chat_template"),
    "a chat without a role": (lambda h: h.pipe([{"content": "hi"}]), "role"),
    "a model that is a number": (lambda h: gpt2kit.pipeline(model=3, tokenizer=h.tokenizer), "3"),
    "a model without its tokenizer": (lambda h: gpt2kit.pipeline(model=h.engine), "tokenizer"),
    "a head that the model lacks": (
        lambda h: gpt2kit.pipeline("text-classification", model=h.root / "lm"),
        "score",
    ),
    "a device that is none": (lambda h: gpt2kit.pipeline(model=h.root / "lm", device="gpu"), "gpu"),
    "a number to judge": (lambda h: h.judge(3), "3|int"),
    "too many best labels": (lambda h: h.judge("a", top_k="all"), "top_k"),
    "a function that is none": (lambda h: h.judge("a", function_to_apply="exp"), "exp"),
    "a strategy that is none": (lambda h: h.tagger("a", aggregation_strategy="best"), "best"),
    "a question without a context": (lambda h: h.reader(question="why"), "context"),
    "an empty question": (lambda h: h.reader(question="", context="because"), "question"),
    "a context that is a number": (lambda h: h.reader(question="why", context=3), "context"),
    "features of a number": (lambda h: h.features(3), "3|int"),
    "one text to score": (lambda h: gpt2kit.score(h.engine, h.tokenizer, "text"), "give a list of texts"),
    "a number to score": (lambda h: gpt2kit.score(h.engine, h.tokenizer, [3]), "a text is a str"),
    "a stride of 0": (lambda h: gpt2kit.score(h.engine, h.tokenizer, ["a"], stride=0), "stride"),
    "a window beyond the model": (
        lambda h: gpt2kit.score(h.engine, h.tokenizer, ["a"], window=500),
        "window",
    ),
    "a number to encode": (lambda h: h.tokenizer(3), "3|int|str"),
    "None to encode": (lambda h: h.tokenizer(None), "You need to specify either `text`"),
    "a number among texts": (lambda h: h.tokenizer(["a", 3]), "3|int|str"),
    "padding without its token": (lambda h: h.tokenizer(["a", "bb"], padding=True), "padding token"),
    "a padding that is none": (lambda h: h.tokenizer("a", padding="long"), "long"),
    "a truncation that is none": (lambda h: h.tokenizer("a", truncation="short"), "short"),
    "a negative length": (lambda h: h.tokenizer("a", truncation=True, max_length=-1), "max_length"),
    "tensors that are none": (lambda h: h.tokenizer("a", return_tensors="xx"), "xx"),
    "ragged tensors": (lambda h: h.tokenizer(["a", "bb"], return_tensors="pt"), "padding|length"),
    "a negative id": (lambda h: h.tokenizer.decode([-1]), "-1"),
    "an id that is a word": (lambda h: h.tokenizer.decode(["a"]), "a"),
    "a vocabulary that is not there": (
        lambda h: gpt2kit.GPT2Tokenizer.from_pretrained(h.root / "empty"),
        "tokenizer.json|vocab.json",
    ),
    "an engine's ids out of range": (lambda h: h.engine.forward([(h.engine.new_sequence(), [9999])]), "9999"),
    "no ids for an engine": (lambda h: h.engine.forward([(h.engine.new_sequence(), [])]), "empty|token"),
    "an engine's rows too long": (
        lambda h: h.engine.forward([(h.engine.new_sequence(), [1] * 200)]),
        "n_positions",
    ),
}

CASES = [
    pytest.param(*case, id=f"{table}: {name}")
    for table, cases in (
        ("forward", FORWARD),
        ("generate", GENERATE),
        ("loading", LOADING),
        ("text", TEXT),
    )
    for name, case in cases.items()
]


@pytest.mark.parametrize(("call", "message"), CASES)
def test_mistake_gives_one_clear_error(call: Case, message: str, here: Any) -> None:
    with pytest.raises((GPT2Error, ValueError, TypeError), match=message) as caught:
        call(here)
    assert not isinstance(caught.value, UnicodeError)
    text = str(caught.value)
    assert 10 < len(text) < 600
    if not isinstance(caught.value, GPT2Error):
        # Ours, or Python's own for arguments that a signature does not have; not from the depths of a package.
        raiser = Path(caught.traceback[-1].path)
        assert raiser.is_relative_to(Path(gpt2kit.__file__).parent) or "unexpected keyword argument" in text


def test_the_table_is_long() -> None:
    assert len(CASES) >= 80
