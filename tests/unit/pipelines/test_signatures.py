"""Every argument of Transformers' pipelines is one of ours, does something or is said to do nothing."""

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import transformers

import gpt2kit
from gpt2kit.config.generation_fields import CHECKS
from gpt2kit.pipelines import factory
from gpt2kit.pipelines.call_options import CallOptions
from gpt2kit.pipelines.task_options import TaskOptions

TASKS = {task: factory._class_of(task) for task in factory.TASKS}
# Arguments of version 4 (4.30 to 4.57) that 5 no longer has.
OLDER_FACTORY = (
    "framework",
    "torch_dtype",
    "feature_extractor",
    "image_processor",
    "processor",
    "use_auth_token",
)
OLDER_CALL = {
    "text-classification": ("return_all_scores", "top_k", "function_to_apply"),
    "token-classification": (
        "grouped_entities",
        "ignore_subwords",
        "ignore_labels",
        "aggregation_strategy",
        "offset_mapping",
        "stride",
    ),
    "zero-shot-classification": ("candidate_labels", "hypothesis_template", "multi_label", "multi_class"),
    "feature-extraction": ("truncation", "tokenize_kwargs", "return_tensors"),
    "question-answering": (
        "top_k",
        "topk",
        "doc_stride",
        "max_answer_len",
        "max_seq_len",
        "max_question_len",
        "handle_impossible_answer",
        "align_to_words",
        "padding",
    ),
    "text-generation": (
        "return_full_text",
        "return_tensors",
        "return_text",
        "return_type",
        "clean_up_tokenization_spaces",
        "prefix",
        "handle_long_generation",
        "stop_sequence",
        "add_special_tokens",
        "truncation",
        "padding",
        "max_length",
        "continue_final_message",
    ),
}


def options_of(task: str) -> set[str]:
    """What a call of a task takes."""
    if task == "text-generation":
        return {item.name for item in fields(CallOptions)} | set(CHECKS)
    options: type[TaskOptions] = TASKS[task].options_class
    return {item.name for item in fields(options)}


def parameters(function: Any) -> set[str]:
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {
        name
        for name, item in inspect.signature(function).parameters.items()
        if item.kind not in kinds and name != "self"
    }


def test_the_factory() -> None:
    wanted = parameters(transformers.pipeline) | set(OLDER_FACTORY)
    assert wanted <= parameters(gpt2kit.pipeline)


@pytest.mark.parametrize("task", TASKS)
def test_a_call(task: str) -> None:
    theirs = getattr(transformers, TASKS[task].__name__, None)
    wanted = set(OLDER_CALL[task]) | {"batch_size", "num_workers"}
    if theirs is not None:  # question-answering is no longer there
        wanted |= parameters(theirs._sanitize_parameters)
    assert wanted <= options_of(task)


@pytest.mark.parametrize("task", TASKS)
def test_options_are_documented(task: str) -> None:
    if task == "text-generation":
        documented, names = CallOptions.__doc__, {item.name for item in fields(CallOptions)}
        names -= {"generation", "generation_config"}
    else:
        kinds = [base for base in TASKS[task].options_class.__mro__ if base.__doc__]
        documented = "\n".join(str(base.__doc__) for base in kinds)
        names = options_of(task)
    missing = [name for name in sorted(names) if name not in str(documented)]
    assert not missing


@pytest.mark.parametrize("task", TASKS)
def test_a_constructor(task: str, folders: dict[str, Path]) -> None:
    """What Transformers' constructors have beside the options of a call, at values that change nothing."""
    others = parameters(transformers.Pipeline.__init__) | {
        "framework",
        "modelcard",
        "args_parser",
        "torch_dtype",
    }
    given = dict.fromkeys(others - {"model", "tokenizer"}) | {"task": task, "device": -1}
    pipe = gpt2kit.pipeline(task, model=folders[task])
    runner = getattr(pipe, "network", pipe.model)
    assert TASKS[task](runner, pipe.tokenizer, **given).task == task
