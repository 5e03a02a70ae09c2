"""The names that scripts import, where they import them from, and what is said of those that are not there."""

import importlib
import subprocess
import sys

import pytest
import transformers

import gpt2kit
from gpt2kit import transformers_names

# What GPT-2 scripts import from the top of Transformers, beside the page's classes.
_SCRIPT_NAMES = """
    AddedToken AutoConfig AutoModelForMultipleChoice BatchEncoding BitsAndBytesConfig Conv1D
    DataCollatorForLanguageModeling DataCollatorForTokenClassification DataCollatorWithFlattening
    DataCollatorWithPadding DefaultDataCollator default_data_collator FeatureExtractionPipeline GenerationConfig
    GenerationMixin GPT2PreTrainedModel logging NerPipeline Pipeline pipeline PreTrainedConfig PretrainedConfig
    PreTrainedModel PreTrainedTokenizer PreTrainedTokenizerBase PreTrainedTokenizerFast set_seed SchedulerType
    SynthIDTextWatermarkDetector TensorType TextClassificationPipeline TextGenerationPipeline
    TokenClassificationPipeline ZeroShotClassificationPipeline get_scheduler get_constant_schedule
    get_cosine_schedule_with_warmup get_linear_schedule_with_warmup get_polynomial_decay_schedule_with_warmup
"""
SCRIPT_NAMES = _SCRIPT_NAMES.split()
# Lines of scripts, with `transformers` for the package's name.
SCRIPT_LINES = """
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention, GPT2Block, GPT2MLP, GPT2LMHeadModel
from transformers.models.gpt2.modeling_gpt2 import GPT2DoubleHeadsModelOutput, GPT2PreTrainedModel
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.gpt2.tokenization_gpt2 import GPT2Tokenizer
from transformers.models.gpt2 import GPT2Model
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache, StaticCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions, SequenceClassifierOutputWithPast
from transformers.modeling_outputs import QuestionAnsweringModelOutput, TokenClassifierOutput
from transformers.pytorch_utils import Conv1D
from transformers.activations import get_activation
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import BatchEncoding, PreTrainedTokenizerBase, AddedToken, TensorType
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy, CharSpan, TokenSpan
from transformers.data.data_collator import DataCollatorForLanguageModeling, default_data_collator
from transformers.data import DataCollatorWithPadding
from transformers.optimization import get_linear_schedule_with_warmup, get_scheduler
from transformers.trainer_utils import set_seed, SchedulerType
from transformers.utils import logging, ModelOutput, is_torch_available
from transformers.utils.logging import set_verbosity_error, get_logger
from transformers.utils.quantization_config import BitsAndBytesConfig
from transformers.generation import GenerationConfig, GenerationMixin, LogitsProcessorList, TextStreamer
from transformers.generation.utils import GenerateDecoderOnlyOutput, GenerateBeamDecoderOnlyOutput
from transformers.generation.logits_process import LogitsProcessor, TopKLogitsWarper
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import TextIteratorStreamer
from transformers.generation.configuration_utils import GenerationConfig, WatermarkingConfig
from transformers.generation.watermarking import WatermarkDetector, BayesianDetectorModel
from transformers.pipelines import TextGenerationPipeline, pipeline
from transformers.pipelines.pt_utils import KeyDataset
from transformers.pipelines.text_generation import ReturnType
""".strip().splitlines()


@pytest.mark.parametrize("name", gpt2kit.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(gpt2kit, name) is not None
    assert name in dir(gpt2kit)


@pytest.mark.parametrize("name", SCRIPT_NAMES)
def test_names_of_scripts(name: str) -> None:
    assert hasattr(transformers, name), "the name is Transformers'"
    assert name in gpt2kit.__all__


@pytest.mark.parametrize("line", SCRIPT_LINES)
def test_lines_of_scripts(line: str) -> None:
    names: dict[str, object] = {}
    exec(line, names)  # it is a line that works with Transformers
    exec(line.replace("transformers", "gpt2kit"), names)
    assert all("gpt2kit" in str(getattr(value, "__module__", value)) for value in _imported(line, names))


def _imported(line: str, names: dict[str, object]) -> list[object]:
    return [names[name.strip()] for name in line.split(" import ")[1].split(",")]


@pytest.mark.parametrize("path", sorted(transformers_names._PATHS))
def test_paths_are_those_of_transformers(path: str) -> None:
    module = importlib.import_module(f"gpt2kit.{path}")
    assert module.GPT2Config is gpt2kit.GPT2Config
    if path not in ("tokenization_utils", "tokenization_utils_fast", "models.gpt2.tokenization_gpt2_fast"):
        importlib.import_module(f"transformers.{path}")  # those of version 4 are no longer there
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


def test_a_path_that_there_is_not() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"gpt2kit\.models\.bert"):
        importlib.import_module("gpt2kit.models.bert.modeling_bert")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BertForSequenceClassification", "it is for GPT-2 and text alone; import it from transformers"),
        ("LlamaTokenizerFast", "it is for GPT-2 and text alone"),
        ("AutoModelForVision2Seq", "it is for GPT-2 and text alone"),
        ("Trainer", "import it from transformers, whose Trainer trains gpt2kit's models"),
        ("TrainingArguments", "whose Trainer trains"),
        ("TFGPT2LMHeadModel", "use GPT2LMHeadModel"),
    ],
)
def test_other_names_say_why(name: str, message: str) -> None:
    with pytest.raises(ImportError, match=message):
        exec(f"from gpt2kit import {name}", {})


def test_a_name_of_nobody() -> None:
    assert not hasattr(gpt2kit, "nothing")
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from gpt2kit import nothing", {})


def test_no_name_of_transformers_passes_without_a_word() -> None:
    """What Transformers has and gpt2kit has not is either explained or has no name of a class."""
    unexplained = [
        name
        for name in transformers.__all__
        if name not in gpt2kit.__all__
        and name[0].isupper()
        and name.endswith(("Model", "Config", "Tokenizer", "TokenizerFast", "Pipeline", "Trainer"))
        and transformers_names.why_missing(name) is None
    ]
    assert not unexplained


def test_documented_modules_need_no_import_of_their_own() -> None:
    code = (
        "import sys, gpt2kit\n"
        "print(gpt2kit.builtin.path())\n"
        "for name in gpt2kit._SUBMODULES: getattr(gpt2kit, name)\n"
        "gpt2kit.errors.ConfigError\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(gpt2kit.builtin.path())


def test_importing_the_package_imports_little() -> None:
    code = "import sys; before = set(sys.modules); import gpt2kit; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:  # an editable install needs site
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert not {"torch", "numpy", "transformers", "huggingface_hub", "click"} & set(loaded)
    assert [name for name in loaded if name.startswith("gpt2kit")] == [
        "gpt2kit",
        "gpt2kit.transformers_names",
    ]
