"""A folder as OpenAI published it runs everywhere that a folder does."""

import shutil
from pathlib import Path

import pytest

import tensorflow_writer as writer
from fakes import write_tiny_model
from gpt2kit import AutoModelForCausalLM, AutoTokenizer, load_engine, pipeline
from gpt2kit.checkpoint import open_checkpoint
from gpt2kit.cli.main import main


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same tiny model as we write it and as OpenAI did."""
    base = tmp_path_factory.mktemp("openai")
    ours, theirs = base / "ours", base / "theirs"
    write_tiny_model(ours)
    checkpoint = open_checkpoint(ours)
    weights = {name: checkpoint.tensor(name) for name in checkpoint.names()}
    writer.write_openai_folder(theirs, checkpoint.config, weights)
    shutil.copy(ours / "vocab.json", theirs / "encoder.json")
    shutil.copy(ours / "merges.txt", theirs / "vocab.bpe")
    return ours, theirs


def test_both_engines_give_the_ids_of_the_same_model_in_safetensors(folders: tuple[Path, Path]) -> None:
    prompts = [[1, 2, 3], [60]]
    expected = load_engine(folders[0]).generate(prompts, max_new_tokens=8)
    for engine in ("native", "torch"):
        assert load_engine(folders[1], engine=engine).generate(prompts, max_new_tokens=8) == expected


def test_tokenizer_model_and_pipeline_read_it(folders: tuple[Path, Path]) -> None:
    text = "hello world"
    ids = AutoTokenizer.from_pretrained(folders[0]).encode(text)
    assert AutoTokenizer.from_pretrained(folders[1]).encode(text) == ids
    model, info = AutoModelForCausalLM.from_pretrained(folders[1], output_loading_info=True)
    assert not any(info.values())
    assert model.generation_config.eos_token_id == model.config.eos_token_id == model.config.vocab_size - 1
    ours, theirs = (
        pipeline("text-generation", model=str(f))(text, max_new_tokens=5, do_sample=False) for f in folders
    )
    assert ours == theirs


def test_command_line_runs_it(folders: tuple[Path, Path], capfd: pytest.CaptureFixture[str]) -> None:
    texts = []
    for folder in folders:
        assert main(["run", "--model", str(folder), "hello", "-n", "5", "--greedy"]) == 0
        texts.append(capfd.readouterr().out)
    assert texts[0] == texts[1] != ""
