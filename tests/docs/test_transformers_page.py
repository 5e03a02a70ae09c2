"""The code of Transformers' page on GPT-2, run with only the import and the model's name changed.

Each block runs twice, with Transformers and with gpt2kit, over the same folders of random weights and GPT-2's real
vocabulary. What it prints and the values that it leaves behind must be the same. The page's serving line is not here:
there is no server yet.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import gpt2kit
from gpt2_vocabulary import write_gpt2_vocabulary

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64, "initializer_range": 0.3}
# What generation_config.json may say: then the page's calls are greedy and short, and both sides can be compared.
GENERATION = {"do_sample": False, "max_new_tokens": 6, "bos_token_id": 50256, "eos_token_id": 50256}
ARCHITECTURES = [
    "GPT2LMHeadModel",
    "GPT2DoubleHeadsModel",
    "GPT2ForSequenceClassification",
    "GPT2ForTokenClassification",
    "GPT2ForQuestionAnswering",
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each architecture, as Transformers saves it."""
    made = {}
    for seed, name in enumerate(ARCHITECTURES):
        folder = made[name] = tmp_path_factory.mktemp(name)
        torch.manual_seed(seed)
        model = getattr(transformers, name)(transformers.GPT2Config(**SIZES)).eval()
        if name == "GPT2LMHeadModel":
            model.generation_config = transformers.GenerationConfig(**GENERATION)
        model.save_pretrained(folder)
        write_gpt2_vocabulary(folder)
    return made


def run(code: str, package: str, folder: Path, capture: Any) -> tuple[str, dict[str, Any]]:
    """Run a block with a package in place of Transformers; return what it prints and its variables."""
    code = code.replace("from transformers", f"from {package}").replace(
        '"openai-community/gpt2-xl"', repr(str(folder))
    )
    code = code.replace('"openai-community/gpt2"', repr(str(folder)))
    capture.readouterr()
    torch.manual_seed(0)
    values: dict[str, Any] = {}
    exec(compile(code, f"<the page with {package}>", "exec"), values)
    return capture.readouterr().out, values


def run_both(
    code: str, folder: Path, capture: Any, *names: str, tolerance: float = 2e-5
) -> tuple[str, dict[str, Any]]:
    """Run a block on both sides, compare what it prints and the variables named; return ours."""
    expected, theirs = run(code, "transformers", folder, capture)
    printed, ours = run(code, "gpt2kit", folder, capture)
    assert printed == expected
    for name in names:
        if torch.is_tensor(theirs[name]):
            torch.testing.assert_close(
                ours[name], theirs[name], rtol=tolerance, atol=tolerance, equal_nan=True
            )
        else:
            assert ours[name] == theirs[name]
    return printed, ours


def test_pipeline(folders: dict[str, Path], capsys: Any) -> None:
    code = """
import torch
from transformers import pipeline

pipeline = pipeline(task="text-generation", model="openai-community/gpt2", dtype=torch.float16, device=0)
result = pipeline("Hello, I'm a language model")
"""
    _, ours = run_both(code, folders["GPT2LMHeadModel"], capsys, "result")
    assert ours["result"][0]["generated_text"].startswith("Hello, I'm a language model")


def test_auto_model(folders: dict[str, Path], capsys: Any) -> None:
    code = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(
    "openai-community/gpt2", dtype=torch.float16, device_map="auto", attn_implementation="sdpa"
)
tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")

input_ids = tokenizer("Hello, I'm a language model", return_tensors="pt").to(model.device)

output = model.generate(**input_ids, cache_implementation="static")
print(tokenizer.decode(output[0], skip_special_tokens=True))
"""
    printed, ours = run_both(code, folders["GPT2LMHeadModel"], capsys, "output")
    assert ours["output"][0, :7].tolist() == [15496, 11, 314, 1101, 257, 3303, 2746]
    assert printed.startswith("Hello, I'm a language model")
    assert ours["model"].dtype == torch.float16


def test_command_line(folders: dict[str, Path]) -> None:
    folder = folders["GPT2LMHeadModel"]
    command = (
        """echo -e "Hello, I'm a language model" | """
        f"gpt2kit run --task text-generation --model {folder} --device 0"
    ).replace("gpt2kit", f"{sys.executable} -m gpt2kit")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    pipe = transformers.pipeline("text-generation", model=str(folder), dtype=torch.float32)
    [expected] = pipe("Hello, I'm a language model")
    assert done.stdout.rstrip("\n") == expected["generated_text"].rstrip("\n")


def test_bitsandbytes(folders: dict[str, Path], capsys: Any) -> None:
    """The page moves its inputs to "cuda"; "cpu" stands for it here.

    bitsandbytes' own products on the CPU are in bfloat16, so the peer is the same model dequantised.
    """
    code = """
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, AutoTokenizer

quantization_config = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_compute_dtype="float16",
    bnb_4bit_use_double_quant=True
)
model = AutoModelForCausalLM.from_pretrained(
    "openai-community/gpt2-xl",
    quantization_config=quantization_config,
    device_map="auto"
)

tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2-xl")
inputs = tokenizer("Once upon a time, there was a magical forest", return_tensors="pt").to("cpu")
outputs = model.generate(**inputs, max_new_tokens=12)
print(tokenizer.decode(outputs[0], skip_special_tokens=True))
"""
    folder = folders["GPT2LMHeadModel"]
    printed, ours = run(code, "gpt2kit", folder, capsys)
    assert printed.startswith("Once upon a time, there was a magical forest")
    model, inputs = ours["model"], ours["inputs"]
    assert model.is_loaded_in_4bit
    plain = model.dequantize()
    peer = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES)).eval()
    peer.load_state_dict(plain.float().state_dict())
    assert torch.equal(ours["outputs"], peer.generate(**inputs, max_new_tokens=12, do_sample=False))


def test_configuration(capsys: Any) -> None:
    code = """
from transformers import GPT2Config, GPT2Model

# Initializing a GPT2 configuration
configuration = GPT2Config()

# Initializing a model (with random weights) from the configuration
model = GPT2Model(configuration)

# Accessing the model configuration
configuration = model.config
"""
    with torch.device("meta"):  # 124M parameters, of which nothing but the shapes counts here
        _, theirs = run(code, "transformers", Path(), capsys)
        _, ours = run(code, "gpt2kit", Path(), capsys)
    assert [(n, p.shape) for n, p in ours["model"].named_parameters()] == [
        (n, p.shape) for n, p in theirs["model"].named_parameters()
    ]
    assert ours["configuration"].to_dict() == theirs["configuration"].to_dict()


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast"])
def test_tokenizer(name: str, folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    code = """
from transformers import GPT2Tokenizer

tokenizer = GPT2Tokenizer.from_pretrained("openai-community/gpt2")
print(tokenizer("Hello world")["input_ids"])
print(tokenizer(" Hello world")["input_ids"])
"""
    folder = folders["GPT2LMHeadModel"]
    printed, ours = run_both(code.replace("GPT2Tokenizer", name), folder, capsys)
    assert printed == "[15496, 995]\n[18435, 995]\n"
    # Documented there as save_vocabulary; both files, as Transformers 4 wrote them.
    paths = ours["tokenizer"].save_vocabulary(str(tmp_path))
    assert [Path(path).name for path in paths] == ["vocab.json", "merges.txt"]
    assert (tmp_path / "merges.txt").read_text() == (folder / "merges.txt").read_text()


def test_base_model(folders: dict[str, Path], capsys: Any) -> None:
    code = """
from transformers import AutoTokenizer, GPT2Model
import torch

tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
model = GPT2Model.from_pretrained("openai-community/gpt2")

inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
outputs = model(**inputs)

last_hidden_states = outputs.last_hidden_state
"""
    run_both(code, folders["GPT2LMHeadModel"], capsys, "last_hidden_states")


def test_language_model(folders: dict[str, Path], capsys: Any) -> None:
    code = """
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
model = GPT2LMHeadModel.from_pretrained("openai-community/gpt2")

inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")
outputs = model(**inputs, labels=inputs["input_ids"])
loss = outputs.loss
logits = outputs.logits
"""
    run_both(code, folders["GPT2LMHeadModel"], capsys, "loss", "logits")


def test_double_heads(folders: dict[str, Path], capsys: Any) -> None:
    """The new token's embedding is drawn close to the mean of the others, hence the tolerance."""
    code = """
import torch
from transformers import AutoTokenizer, GPT2DoubleHeadsModel

tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
model = GPT2DoubleHeadsModel.from_pretrained("openai-community/gpt2")

# Add a [CLS] to the vocabulary (we should train it also!)
num_added_tokens = tokenizer.add_special_tokens({"cls_token": "[CLS]"})
# Update the model embeddings with the new vocabulary size
embedding_layer = model.resize_token_embeddings(len(tokenizer))

choices = ["Hello, my dog is cute [CLS]", "Hello, my cat is cute [CLS]"]
encoded_choices = [tokenizer.encode(s) for s in choices]
cls_token_location = [tokens.index(tokenizer.cls_token_id) for tokens in encoded_choices]

input_ids = torch.tensor(encoded_choices).unsqueeze(0)  # Batch size: 1, number of choices: 2
mc_token_ids = torch.tensor([cls_token_location])  # Batch size: 1

outputs = model(input_ids, mc_token_ids=mc_token_ids)
lm_logits = outputs.logits
mc_logits = outputs.mc_logits
"""
    names = ["num_added_tokens", "encoded_choices", "mc_token_ids", "lm_logits", "mc_logits"]
    _, ours = run_both(code, folders["GPT2DoubleHeadsModel"], capsys, *names, tolerance=2e-3)
    assert ours["embedding_layer"].num_embeddings == 50258
    assert ours["lm_logits"].shape == (1, 2, 8, 50258)
    assert ours["mc_logits"].shape == (1, 2)


def test_single_label_classification(folders: dict[str, Path], capsys: Any) -> None:
    code = """
import torch
from transformers import AutoTokenizer, GPT2ForSequenceClassification

tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
model = GPT2ForSequenceClassification.from_pretrained("openai-community/gpt2")

inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")

with torch.no_grad():
    logits = model(**inputs).logits

predicted_class_id = logits.argmax().item()
print(model.config.id2label[predicted_class_id])

# To train a model on `num_labels` classes, you can pass `num_labels=num_labels` to `.from_pretrained(...)`
num_labels = len(model.config.id2label)
model = GPT2ForSequenceClassification.from_pretrained("openai-community/gpt2", num_labels=num_labels)

labels = torch.tensor([1])
loss = model(**inputs, labels=labels).loss
print(round(loss.item(), 2))
"""
    run_both(code, folders["GPT2ForSequenceClassification"], capsys, "logits", "num_labels", "loss")


def test_multi_label_classification(folders: dict[str, Path], capsys: Any) -> None:
    code = """
import torch
from transformers import AutoTokenizer, GPT2ForSequenceClassification

tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
model = GPT2ForSequenceClassification.from_pretrained(
    "openai-community/gpt2", problem_type="multi_label_classification"
)

inputs = tokenizer("Hello, my dog is cute", return_tensors="pt")

with torch.no_grad():
    logits = model(**inputs).logits

predicted_class_ids = torch.arange(0, logits.shape[-1])[torch.sigmoid(logits).squeeze(dim=0) > 0.5]

# To train a model on `num_labels` classes, you can pass `num_labels=num_labels` to `.from_pretrained(...)`
num_labels = len(model.config.id2label)
model = GPT2ForSequenceClassification.from_pretrained(
    "openai-community/gpt2", num_labels=num_labels, problem_type="multi_label_classification"
)

labels = torch.sum(
    torch.nn.functional.one_hot(predicted_class_ids[None, :].clone(), num_classes=num_labels), dim=1
).to(torch.float)
loss = model(**inputs, labels=labels).loss
"""
    folder = folders["GPT2ForSequenceClassification"]
    run_both(code, folder, capsys, "logits", "predicted_class_ids", "labels", "loss")


def test_token_classification(folders: dict[str, Path], capsys: Any) -> None:
    code = """
from transformers import AutoTokenizer, GPT2ForTokenClassification
import torch

tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
model = GPT2ForTokenClassification.from_pretrained("openai-community/gpt2")

inputs = tokenizer(
    "HuggingFace is a company based in Paris and New York", add_special_tokens=False, return_tensors="pt"
)

with torch.no_grad():
    logits = model(**inputs).logits

predicted_token_class_ids = logits.argmax(-1)

# Note that tokens are classified rather then input words which means that
# there might be more predicted token classes than words.
# Multiple token classes might account for the same word
predicted_tokens_classes = [model.config.id2label[t.item()] for t in predicted_token_class_ids[0]]
print(predicted_tokens_classes)

labels = predicted_token_class_ids
loss = model(**inputs, labels=labels).loss
print(round(loss.item(), 2))
"""
    printed, _ = run_both(code, folders["GPT2ForTokenClassification"], capsys, "logits", "loss")
    assert {"LABEL_0", "LABEL_1"} >= set(eval(printed.splitlines()[0]))


def test_question_answering(folders: dict[str, Path], capsys: Any) -> None:
    code = """
from transformers import AutoTokenizer, GPT2ForQuestionAnswering
import torch

tokenizer = AutoTokenizer.from_pretrained("openai-community/gpt2")
model = GPT2ForQuestionAnswering.from_pretrained("openai-community/gpt2")

question, text = "Who was Jim Henson?", "Jim Henson was a nice puppet"

inputs = tokenizer(question, text, return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)

answer_start_index = outputs.start_logits.argmax()
answer_end_index = outputs.end_logits.argmax()

predict_answer_tokens = inputs.input_ids[0, answer_start_index : answer_end_index + 1]
print(tokenizer.decode(predict_answer_tokens, skip_special_tokens=True))

# target is "nice puppet"
target_start_index = torch.tensor([14])
target_end_index = torch.tensor([15])

outputs = model(**inputs, start_positions=target_start_index, end_positions=target_end_index)
loss = outputs.loss
print(round(loss.item(), 2))
"""
    folder, names = folders["GPT2ForQuestionAnswering"], ["answer_start_index", "answer_end_index", "loss"]
    # 14 and 15 are BERT's positions of the answer; GPT-2's text has 13 tokens, and they count for nothing.
    _, ours = run_both(code, folder, capsys, *names)
    assert ours["loss"].isnan()
    _, ours = run_both(code.replace("[14]", "[11]").replace("[15]", "[12]"), folder, capsys, *names)
    assert ours["loss"] > 0
    assert ours["tokenizer"].decode(ours["inputs"].input_ids[0, 11:13]) == " nice puppet"


# The page's three notes.


def test_note_on_padding_on_the_right(folders: dict[str, Path]) -> None:
    """Positions are absolute, so padding on the right gives each row what it gives alone."""
    folder = folders["GPT2LMHeadModel"]
    tokenizer = gpt2kit.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.padding_side == "right"
    tokenizer.pad_token = tokenizer.eos_token
    texts = ["Hello, my dog is cute", "Today", "A somewhat longer text than the others are"]
    model = gpt2kit.GPT2LMHeadModel.from_pretrained(folder)
    oracle = transformers.GPT2LMHeadModel.from_pretrained(folder)
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits, expected = model(**inputs).logits, oracle(**inputs).logits
        for index, text in enumerate(texts):
            alone = tokenizer(text, return_tensors="pt")
            length = alone["input_ids"].shape[1]
            for peer in (model(**alone).logits[0], oracle(**alone).logits[0], expected[index, :length]):
                torch.testing.assert_close(logits[index, :length], peer, rtol=2e-5, atol=2e-5)


def test_note_on_past_key_values(folders: dict[str, Path]) -> None:
    """Keys and values that were computed once are used again, and give what the whole text gives."""
    folder = folders["GPT2LMHeadModel"]
    ids = torch.tensor([[15496, 11, 314, 1101, 257, 3303, 2746]])
    logits = {}
    for package in (gpt2kit, transformers):
        model = package.GPT2LMHeadModel.from_pretrained(folder)
        with torch.no_grad():
            first = model(ids[:, :4], use_cache=True)
            second = model(ids[:, 4:], past_key_values=first.past_key_values)
            logits[package, "in two parts"] = torch.cat([first.logits, second.logits], dim=1)
            logits[package, "whole"] = model(ids).logits
    for found in logits.values():
        torch.testing.assert_close(found, logits[transformers, "whole"], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("seed", range(6))
def test_note_on_stability(seed: int) -> None:
    """Mistral's two flags, which Transformers heeds in its eager attention, in training and in evaluation."""
    rng = random.Random(seed)
    flags = {
        "scale_attn_by_inverse_layer_idx": seed % 3 != 0,
        "reorder_and_upcast_attn": seed % 3 != 1,
        "scale_attn_weights": rng.random() < 0.5,
    }
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {**SIZES, "n_layer": 3, "vocab_size": 60, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(seed)
    oracle = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes, **flags, **no_dropout, attn_implementation="eager")
    )
    model = gpt2kit.GPT2LMHeadModel(gpt2kit.GPT2Config(**sizes, **flags, **no_dropout))
    model.load_state_dict(oracle.state_dict())
    ids = torch.randint(60, (2, 9))
    expected, found = oracle(ids, labels=ids), model(ids, labels=ids)
    torch.testing.assert_close(found.logits, expected.logits, rtol=2e-5, atol=2e-5)
    expected.loss.backward()
    found.loss.backward()
    for ours, theirs in zip(model.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    plain = gpt2kit.GPT2LMHeadModel(
        gpt2kit.GPT2Config(**sizes, scale_attn_weights=flags["scale_attn_weights"])
    )
    plain.load_state_dict(oracle.state_dict())
    if flags["scale_attn_by_inverse_layer_idx"]:
        assert not torch.allclose(plain.eval()(ids).logits, expected.logits, atol=1e-4)
