import json
import subprocess
import sys
from pathlib import Path

import pytest

from fakes import FakeEngine, FakeTokenizer, write_tiny_model
from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.config import GPT2Config
from gpt2kit.engine import NativeEngine, load_engine
from gpt2kit.errors import EngineError, GenerationError, GPT2Warning, PipelineError
from gpt2kit.pipelines import TextGenerationPipeline, device, pipeline


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(device, "_accelerator", lambda: None)


def make(**options):
    return pipeline("text-generation", model=FakeEngine(), tokenizer=FakeTokenizer(), **options)


def test_an_engine_and_a_tokenizer_are_taken_as_they_are():
    pipe = make(max_new_tokens=3)
    assert isinstance(pipe, TextGenerationPipeline)
    assert isinstance(pipe.engine, FakeEngine)


def test_the_task_may_be_left_out_but_not_mistyped():
    assert pipeline(model=FakeEngine(), tokenizer=FakeTokenizer()).task == "text-generation"
    with pytest.raises(PipelineError, match="Unknown task text-generaton, available tasks are feature-ext"):
        pipeline("text-generaton")


def test_a_folder_brings_engine_tokenizer_and_options(tmp_path):
    write_tiny_model(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"do_sample": false, "max_new_tokens": 3}')
    pipe = pipeline("text-generation", model=tmp_path)
    assert isinstance(pipe.engine, NativeEngine)
    (row,) = pipe.generate(["hello"])
    assert (len(row.ids), row.num_prompt_tokens) == (3, 1)
    assert pipeline(model=str(tmp_path), tokenizer=str(tmp_path))("hello") == pipe("hello")
    assert pipeline(model=open_checkpoint(tmp_path))("hello") == pipe("hello")


def test_a_torch_model_is_taken_as_it_is(tmp_path):
    pytest.importorskip("torch")
    write_tiny_model(tmp_path)
    from gpt2kit.model import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    options = {"do_sample": False, "max_new_tokens": 5}
    expected = pipeline(model=tmp_path)("hello", **options)
    assert pipeline(model=model, tokenizer=tmp_path)("hello", **options) == expected
    assert pipeline(model=model, tokenizer=tmp_path, device=-1)("hello", **options) == expected


def test_a_torch_model_runs_on_the_engine_that_its_generate_would_choose(tmp_path):
    torch = pytest.importorskip("torch")
    write_tiny_model(tmp_path)
    from gpt2kit.engine.torch import TorchEngine
    from gpt2kit.model import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    model.generation_config.update(max_new_tokens=4, do_sample=False)
    pipe = pipeline(model=model, tokenizer=tmp_path, return_tensors=True)
    assert isinstance(pipe.engine, NativeEngine)
    assert pipe.model is model
    [native] = pipe("hello")
    assert (
        native["generated_token_ids"]
        == model.generate(torch.tensor([native["generated_token_ids"][:-4]]))[0].tolist()
    )

    with torch.no_grad():
        model.transformer.wpe.weight.neg_()
    [changed] = pipe("hello")
    assert changed != native
    hook = model.transformer.h[0].register_forward_hook(lambda *_: None)
    assert isinstance(pipe.engine, TorchEngine)
    assert pipe("hello") == [changed]
    hook.remove()
    assert isinstance(pipe.engine, NativeEngine)
    model.train()
    with pytest.raises(EngineError, match=r"call model\.eval\(\) first"):
        pipe("hello")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"revision": "main"}, "revision='main' is for loading a model by name"),
        ({"threads": 2}, "threads=2 is for loading a model by name"),
        ({"dtype": "float16"}, "dtype='float16' is for loading"),
        ({"allow_pickle": True}, "allow_pickle=True is for loading"),
    ],
)
def test_loading_options_of_a_loaded_model_are_refused(options, message):
    with pytest.raises(PipelineError, match=message):
        make(**options)


def test_a_model_that_is_none_is_refused():
    with pytest.raises(PipelineError, match="model must be a folder, a hub name"):
        pipeline(model=3, tokenizer=FakeTokenizer())


def test_a_dtype_of_torch_is_understood(tmp_path):
    torch = pytest.importorskip("torch")
    write_tiny_model(tmp_path)
    assert isinstance(pipeline(model=tmp_path, dtype=torch.float32).engine, NativeEngine)


def test_an_engine_without_a_tokenizer_is_refused():
    with pytest.raises(PipelineError, match="pass tokenizer="):
        pipeline(model=FakeEngine())


def test_a_mistyped_option_is_refused():
    with pytest.raises(GenerationError, match="did you mean max_new_tokens"):
        make(max_new_token=3)


@pytest.mark.parametrize("number", [0, 1, "0"])
def test_a_numbered_device_falls_back_to_the_cpu_with_one_notice(no_accelerator, number):
    with pytest.warns(UserWarning, match="there is no accelerator; using the CPU") as record:
        make(device=number)
    assert len(record) == 1


@pytest.mark.parametrize("place", [None, -1, "cpu", "auto"])
def test_the_cpu_needs_no_notice(recwarn, place):
    make(device=place)
    make(device_map=place)
    assert len(recwarn) == 0


def test_a_device_map_of_cpus_needs_no_torch(no_accelerator, tmp_path):
    write_tiny_model(tmp_path)
    for device_map in ({"": "cpu"}, {"transformer.wte": "cpu", "": "cpu"}, "balanced", "sequential"):
        assert isinstance(pipeline(model=tmp_path, device_map=device_map).engine, NativeEngine)


@pytest.mark.parametrize(
    "device_map", ["auto", "balanced", {"": 0}, {"transformer": "cpu", "lm_head": "disk"}]
)
def test_a_device_map_that_needs_placing_is_torch_s_affair(monkeypatch, tmp_path, device_map):
    monkeypatch.setattr(device, "_accelerator", lambda: "cuda")
    assert device.needs_placing(device_map)
    with pytest.raises(PipelineError, match="device_map: only engine='torch' takes these"):
        write_tiny_model(tmp_path)
        pipeline(model=tmp_path, device_map=device_map, engine="native")


def test_a_torch_device_is_understood(no_accelerator):
    torch = pytest.importorskip("torch")
    assert device.choose_device(torch.device("cpu")) == "cpu"
    with pytest.raises(EngineError, match="'cuda:0' is not available"):
        device.choose_device(torch.device("cuda", 0))


@pytest.mark.parametrize("place", ["cuda", "cuda:1", "mps", "xpu:0"])
def test_a_named_accelerator_that_is_not_there_is_an_error(no_accelerator, place):
    with pytest.raises(EngineError, match="is not available here"):
        make(device=place)


@pytest.mark.parametrize("place", [1.5, "gpu", "cuda:x", True, {"": 0}, -2])
def test_other_devices_are_refused(no_accelerator, place):
    with pytest.raises(EngineError, match="device must be"):
        make(device=place)


def test_an_accelerator_that_is_there_is_used(monkeypatch):
    monkeypatch.setattr(device, "_accelerator", lambda: "cuda")
    assert device.choose_device(1) == "cuda:1"
    assert device.choose_device("cuda:0") == "cuda:0"


def test_device_wins_over_device_map(tmp_path):
    write_tiny_model(tmp_path)
    with pytest.warns(GPT2Warning, match="device='cpu' and device_map='auto' are given; device is taken"):
        pipe = pipeline(model=tmp_path, device="cpu", device_map="auto")
    assert isinstance(pipe.engine, NativeEngine)


def test_a_pipeline_on_the_cpu_never_imports_torch():
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from fakes import *; from gpt2kit import pipeline\n"
        "pipe = pipeline(model=FakeEngine(), tokenizer=FakeTokenizer(), device='cpu')\n"
        "pipe('abc', max_new_tokens=3)\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["feature_extractor", "image_processor", "video_processor", "processor"])
def test_what_does_not_read_text_is_refused(name):
    with pytest.raises(PipelineError, match=f"{name}=.* is not supported: GPT-2 reads text"):
        make(**{name: object()})


def test_the_order_of_arguments_is_transformers(tmp_path):
    write_tiny_model(tmp_path)
    pipe = pipeline("text-generation", str(tmp_path), str(tmp_path), str(tmp_path), use_fast=False)
    assert pipe.config.n_positions == 128
    assert pipeline("text-generation", tmp_path, trust_remote_code=True).config.n_layer == 2


def test_a_configuration_replaces_the_model_s(tmp_path):
    write_tiny_model(tmp_path, head="score", num_labels=2)
    config = GPT2Config.from_pretrained(tmp_path)
    config.id2label = {0: "bad", 1: "good"}
    for given in (config, write_config(tmp_path / "other", config)):
        pipe = pipeline("text-classification", model=tmp_path, config=given)
        assert {record["label"] for record in pipe("x", top_k=None)} == {"bad", "good"}


def write_config(folder, config):
    config.save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_may_come_with_its_options(tmp_path):
    write_tiny_model(tmp_path)
    pipe = pipeline(model=tmp_path, tokenizer=(str(tmp_path), {"add_prefix_space": True}))
    assert pipe.tokenizer.add_prefix_space is True


def test_model_kwargs_are_loading_options(tmp_path):
    write_tiny_model(tmp_path)
    expected = pipeline(model=tmp_path)("hello", seed=1, max_new_tokens=3)
    for inner in ({"dtype": "float32"}, {"torch_dtype": "float32"}, {"low_cpu_mem_usage": True}, {}):
        pipe = pipeline(model=tmp_path, model_kwargs=inner)
        assert isinstance(pipe.engine, NativeEngine)
        assert pipe("hello", seed=1, max_new_tokens=3) == expected
    assert isinstance(pipeline(model=tmp_path, torch_dtype="float32").engine, NativeEngine)
    with pytest.raises(PipelineError, match=r'model_kwargs=\{"dtype":...\}'):
        pipeline(model=tmp_path, dtype="float32", model_kwargs={"dtype": "float32"})
    inner = {"attn_implementation": "eager"}
    with pytest.raises(PipelineError, match="attn_implementation: only engine='torch' takes these"):
        pipeline(model=tmp_path, engine="native", model_kwargs=inner)
    with pytest.raises(PipelineError, match="threads=1 is for the native engine, and torch runs this"):
        pipeline(model=tmp_path, threads=1, model_kwargs=inner)
    with pytest.raises(PipelineError, match="threads=1 is for the native engine, and torch runs this"):
        pipeline("feature-extraction", model=tmp_path, threads=1, engine="torch")


def test_model_kwargs_that_only_torch_has_choose_torch(tmp_path):
    pytest.importorskip("torch")
    write_tiny_model(tmp_path)
    pipe = pipeline(model=tmp_path, model_kwargs={"attn_implementation": "eager"})
    assert pipe.model.config.attn_implementation == "eager"
    expected = pipeline(model=tmp_path)("hello", do_sample=False, max_new_tokens=5)
    assert pipe("hello", do_sample=False, max_new_tokens=5) == expected


def test_a_generation_pipeline_saves_its_model_options_and_tokenizer(tmp_path):
    write_tiny_model(tmp_path / "one")
    (tmp_path / "one" / "generation_config.json").write_text('{"do_sample": false, "max_new_tokens": 3}')
    pipe = pipeline(model=tmp_path / "one")
    pipe.save_pretrained(tmp_path / "two", max_shard_size="20KB")
    assert len(list((tmp_path / "two").glob("model-*.safetensors"))) > 1
    assert pipeline(model=tmp_path / "two")("hello") == pipe("hello")
    pytest.importorskip("torch")
    pipeline(model=tmp_path / "one", engine="torch").save_pretrained(tmp_path / "three")
    assert pipeline(model=tmp_path / "three")("hello", do_sample=False, max_new_tokens=3) == pipe("hello")


@pytest.mark.parametrize("form", [str, lambda folder: folder, open_checkpoint, load_engine])
def test_an_assistant_may_be_named_opened_or_loaded(tmp_path, form):
    write_tiny_model(tmp_path)
    options = {"do_sample": False, "max_new_tokens": 9}
    expected = pipeline(model=tmp_path)("hello w", **options)
    pipe = pipeline(model=tmp_path, assistant_model=form(tmp_path))
    assert pipe._defaults.assistant_tokenizer is None  # it has the same vocabulary
    assert pipe("hello w", **options) == expected
    assert pipeline(model=tmp_path)("hello w", assistant_model=form(tmp_path), **options) == expected


def test_an_assistant_with_another_vocabulary_brings_its_tokenizer(tmp_path):
    write_tiny_model(tmp_path / "one")
    write_tiny_model(tmp_path / "two")
    vocabulary = json.loads((tmp_path / "two" / "vocab.json").read_text())
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / "two" / "vocab.json").write_text(json.dumps(vocabulary))
    options = {"do_sample": False, "max_new_tokens": 9}
    expected = pipeline(model=tmp_path / "one")("hello w", **options)
    pipe = pipeline(model=tmp_path / "one", assistant_model=tmp_path / "two")
    assert pipe._defaults.assistant_tokenizer is not None
    assert pipe("hello w", **options) == expected
    tokenizer = str(tmp_path / "two")
    engine = load_engine(tmp_path / "two")
    pipe = pipeline(model=tmp_path / "one", assistant_model=engine, assistant_tokenizer=tokenizer)
    assert pipe("hello w", **options) == expected


def test_what_is_no_assistant_is_refused(tmp_path):
    write_tiny_model(tmp_path)
    with pytest.raises(PipelineError, match="model must be a folder, a hub name"):
        pipeline(model=tmp_path, assistant_model=object())


def test_an_unknown_task_is_a_key_error_too():
    with pytest.raises(KeyError) as caught:
        pipeline("text-generaton")
    assert str(caught.value).startswith("Unknown task text-generaton, available tasks are")


def test_dtype_none_is_auto(tmp_path):
    write_tiny_model(tmp_path)
    expected = pipeline(model=tmp_path)("hello", seed=1)
    for options in ({"dtype": None}, {"torch_dtype": None}, {"dtype": None, "torch_dtype": "float32"}):
        assert pipeline(model=tmp_path, **options)("hello", seed=1) == expected


def test_a_pipeline_by_its_class_takes_what_transformers_constructors_take():
    others = {
        "task": "text-generation",
        "framework": "pt",
        "torch_dtype": None,
        "dtype": "float32",
        "feature_extractor": None,
        "image_processor": None,
        "processor": None,
        "modelcard": None,
        "args_parser": None,
        "binary_output": False,
        "num_workers": 2,
        "batch_size": 4,
    }
    pipe = TextGenerationPipeline(model=FakeEngine(), tokenizer=FakeTokenizer(), **others)
    assert pipe("a", max_new_tokens=2, seed=1) == make()("a", max_new_tokens=2, seed=1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"task": "ner"}, "task is 'ner'; TextGenerationPipeline is for 'text-generation'"),
        ({"framework": "tf"}, "framework='tf' is not supported"),
        ({"processor": 1}, "processor=1 is not supported: GPT-2 reads text"),
        ({"no_such_option": 1}, "no_such_option"),
    ],
)
def test_a_constructor_refuses_what_it_cannot_do(option, message):
    with pytest.raises((PipelineError, GenerationError), match=message):
        TextGenerationPipeline(FakeEngine(), FakeTokenizer(), **option)


def test_a_dtype_that_changes_nothing_is_said():
    with pytest.warns(GPT2Warning, match="stays float32"):
        TextGenerationPipeline(FakeEngine(), FakeTokenizer(), torch_dtype="float16")


def test_names_of_transformers_4(tmp_path):
    write_tiny_model(tmp_path)
    expected = pipeline(model=tmp_path)("hello", seed=1)
    assert pipeline(model=tmp_path, framework="pt", use_auth_token=None)("hello", seed=1) == expected
    with pytest.raises(PipelineError, match="framework='tf' is not supported"):
        pipeline(model=tmp_path, framework="tf")


def test_attributes_that_scripts_read(tmp_path):
    torch = pytest.importorskip("torch")
    write_tiny_model(tmp_path)
    from gpt2kit.model import GPT2LMHeadModel

    pipe = pipeline(model=GPT2LMHeadModel.from_pretrained(tmp_path), tokenizer=tmp_path)
    assert (pipe.framework, pipe.dtype, pipe.torch_dtype) == ("pt", torch.float32, torch.float32)
    moved = pipe.ensure_tensor_on_device(input_ids=torch.ones(1, 2), others=[torch.zeros(1)], text="a")
    assert moved["text"] == "a" and moved["others"][0].device == pipe.device
