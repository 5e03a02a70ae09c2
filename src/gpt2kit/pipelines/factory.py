"""pipeline(): load what a task needs and put it together."""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

from gpt2kit.checkpoint import Checkpoint, open_checkpoint
from gpt2kit.config import AutoConfig, GPT2Config
from gpt2kit.engine import choose_engine, load_engine
from gpt2kit.engine.compute import Compute
from gpt2kit.errors import GPT2Warning, PipelineError, UnknownTaskError
from gpt2kit.pipelines.base import ALIASES, Pipeline, check_framework, refuse_processors
from gpt2kit.pipelines.device import choose_device, needs_placing
from gpt2kit.pipelines.steps import has_own_steps

# Task -> module and class of its pipeline.
TASKS = {
    "text-generation": "text_generation:TextGenerationPipeline",
    "feature-extraction": "feature_extraction:FeatureExtractionPipeline",
    "text-classification": "text_classification:TextClassificationPipeline",
    "token-classification": "token_classification:TokenClassificationPipeline",
    "zero-shot-classification": "zero_shot_classification:ZeroShotClassificationPipeline",
    "question-answering": "question_answering:QuestionAnsweringPipeline",
}

# What a model is for when no task is named: the task of its architecture.
_TASK_OF = {
    "GPT2ForSequenceClassification": "text-classification",
    "GPT2ForTokenClassification": "token-classification",
    "GPT2ForQuestionAnswering": "question-answering",
    "GPT2Model": "feature-extraction",
}
# Options of model_kwargs that are arguments of pipeline() too.
_LOADING = ("subfolder", "cache_dir", "force_download", "local_files_only", "variant", "device_map")


def pipeline(
    task: str | None = None,
    model: Any = None,  # a folder, a hub name, a Checkpoint, an engine or a torch model
    config: str | os.PathLike[str] | GPT2Config | None = None,
    tokenizer: Any = None,  # a folder, a hub name, (one of these, its options) or a tokenizer
    feature_extractor: None = None,
    image_processor: None = None,
    video_processor: None = None,
    processor: None = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: Any = None,  # None, a number, a string or a torch.device
    device_map: Any = None,
    dtype: Any = "auto",
    trust_remote_code: bool | None = None,
    model_kwargs: dict[str, Any] | None = None,
    pipeline_class: Any = None,
    *,
    torch_dtype: Any = None,
    framework: str | None = None,
    use_auth_token: str | bool | None = None,
    subfolder: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    variant: str | None = None,
    allow_pickle: bool = False,
    quant: str | None = None,
    compute: Compute | None = None,
    threads: int | None = None,
    engine: str = "auto",
    kv_cache_dtype: str | None = None,
    **options: Any,
) -> Any:
    """Load a model and its tokenizer for a task and return the pipeline.

    task: a key of TASKS or ALIASES; None goes by the model, which is for text-generation if it says nothing.
    model: a folder or hub name; None is the small built-in model, which has no head but the language model's.
    config: replaces the model's. tokenizer: only needed when `model` is an engine or a torch model.
    revision to allow_pickle: as for from_pretrained; token too. torch_dtype, use_auth_token: Transformers 4's names
        of dtype and token; framework: None or "pt".
    device, device_map: None or -1 for the CPU, which needs no torch; a number for an accelerator, with a
        fall-back to the CPU; device wins where both are given. A dict, and "auto" where there is an accelerator, are as for from_pretrained.
    dtype, quant, compute, threads, engine, kv_cache_dtype: as for load_engine.
    model_kwargs: more options of from_pretrained; those that only torch has choose the torch engine.
    pipeline_class: a subclass of the task's pipeline to make instead.
    use_fast, trust_remote_code: accepted and without effect: there is one tokenizer, and code that comes with
        a model is never run.
    feature_extractor to processor: must be None; GPT-2 reads text.
    options: defaults for every call of the pipeline.

        >>> pipe = pipeline("text-generation")
        >>> pipe("Once upon a time", max_new_tokens=8)[0]["generated_text"]  # doctest: +SKIP
    """
    refuse_processors(
        feature_extractor=feature_extractor,
        image_processor=image_processor,
        video_processor=video_processor,
        processor=processor,
    )
    check_framework(framework)
    kind = _pipeline_class(task, pipeline_class)
    given: dict[str, Any] = {
        "subfolder": subfolder,
        "cache_dir": cache_dir,
        "local_files_only": local_files_only,
        "force_download": force_download,
        "variant": variant,
        "device_map": device_map,
        "dtype": (torch_dtype if dtype in (None, "auto") else dtype) or "auto",
    }
    torch_options = _merge_model_kwargs(given, model_kwargs or {})
    dtype = str(given.pop("dtype")).removeprefix("torch.")
    device_map = given.pop("device_map")
    if device is not None and device_map is not None:
        warnings.warn(
            f"device={device!r} and device_map={device_map!r} are given; device is taken",
            GPT2Warning,
            stacklevel=2,
        )
        device_map = None
    where = device if device_map is None else device_map
    if needs_placing(device_map):
        torch_options["device_map"], where = device_map, None
    place = choose_device(where)
    files = {
        "revision": revision,
        "token": use_auth_token if token is None else token,
        **given,
        "allow_pickle": allow_pickle,
    }
    run = {
        "dtype": dtype,
        "quant": quant,
        "threads": threads,
        "engine": engine,
        "compute": compute,
        "kv_cache_dtype": kv_cache_dtype,
    }
    if model is not None and not isinstance(model, (str, os.PathLike, Checkpoint)):
        _refuse_loading_options(model, {**files, **run, **torch_options, "config": config})
        kind = kind or _class_of(_TASK_OF.get(type(model).__name__, "text-generation"))
        place_asked = None if where is None else place
        return kind(model, _load_tokenizer(tokenizer, None), device=place_asked, **options)
    checkpoint = _open(model, config, files)
    kind = kind or _class_of(_task_of(checkpoint.config))
    runner = _load(kind, checkpoint, place, run, torch_options)
    return kind(runner, _load_tokenizer(tokenizer, checkpoint.folder), checkpoint=checkpoint, **options)


def _pipeline_class(task: str | None, pipeline_class: Any) -> Any:
    """Return the class to make, or None when the model shall say."""
    if task is not None and ALIASES.get(task, task) not in TASKS:
        known = ", ".join(sorted([*TASKS, *ALIASES]))
        raise UnknownTaskError(f"Unknown task {task}, available tasks are {known}")
    if pipeline_class is None:
        return None if task is None else _class_of(ALIASES.get(task, task))
    if not (isinstance(pipeline_class, type) and issubclass(pipeline_class, Pipeline)):
        raise PipelineError(
            f"pipeline_class must be a subclass of one of gpt2kit.pipelines' classes, got {pipeline_class!r}"
        )
    return pipeline_class


def _class_of(task: str) -> Any:
    module, _, name = TASKS[task].partition(":")
    return getattr(import_module(f"gpt2kit.pipelines.{module}"), name)


def _task_of(config: GPT2Config) -> str:
    for architecture in config.architectures or ():
        if architecture in _TASK_OF:
            return _TASK_OF[architecture]
    return "text-generation"


def _merge_model_kwargs(given: dict[str, Any], model_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Move what pipeline() knows from model_kwargs into `given`; return the rest."""
    rest = dict(model_kwargs)
    if "torch_dtype" in rest:
        rest.setdefault("dtype", rest.pop("torch_dtype"))
    for name in (*_LOADING, "dtype"):
        if name not in rest:
            continue
        if given[name] not in (None, False, "auto"):
            raise PipelineError(
                f'You cannot use both `pipeline(... {name}=..., model_kwargs={{"{name}":...}})` as those '
                "arguments might conflict, use only one."
            )
        given[name] = rest.pop(name)
    rest.pop("low_cpu_mem_usage", None)  # loading is always done so
    return rest


def _open(
    model: str | os.PathLike[str] | Checkpoint | None, config: Any, files: dict[str, Any]
) -> Checkpoint:
    if isinstance(model, Checkpoint):
        _refuse_loading_options(model, {**files, "config": config})
        return model
    if config is not None and not isinstance(config, GPT2Config):
        config = AutoConfig.from_pretrained(config)
    if model is None:
        _refuse_loading_options("the built-in model", {**files, "config": config})
        from gpt2kit import builtin

        return open_checkpoint(builtin.path())
    return open_checkpoint(model, config=config, **files)


def _load(
    kind: Any, checkpoint: Checkpoint, place: str, how: dict[str, Any], torch_options: dict[str, Any]
) -> Any:
    """Return what runs the model: an engine, an engine with a head, or a torch model with its head.

    how: dtype, quant, compute, threads, engine and kv_cache_dtype. torch_options: those of from_pretrained that need
        torch.
    """
    needs_torch = bool(torch_options) or has_own_steps(kind)
    if not needs_torch and kind.task == "text-generation":
        return load_engine(checkpoint, device=place, **how)
    asked = "torch" if needs_torch and how["engine"] == "auto" else how["engine"]
    if choose_engine(checkpoint.config, asked, device=place) == "native":
        if torch_options:
            raise PipelineError(f"{', '.join(sorted(torch_options))}: only engine='torch' takes these")
        if has_own_steps(kind):
            raise PipelineError(f"{kind.__name__} has steps of its own: only engine='torch' runs these")
        from gpt2kit.engine.heads import EngineWithHead, load_head

        head = None if kind.head is None else load_head(checkpoint, kind.head, kind.task)
        return EngineWithHead(load_engine(checkpoint, **how), head)
    for name in ("quant", "threads", "compute", "kv_cache_dtype"):
        if how[name] not in (None, "auto"):
            raise PipelineError(
                f"{name}={how[name]!r} is for the native engine, and torch runs this; leave it out"
            )
    return _load_torch(kind, checkpoint, how["dtype"], place, torch_options)


def _load_torch(kind: Any, checkpoint: Checkpoint, dtype: str, place: str, options: dict[str, Any]) -> Any:
    """Return a torch model of the task's class."""
    from gpt2kit import model as models
    from gpt2kit.engine.heads import HEAD_CLASSES, load_head

    if kind.task == "text-generation":
        name = "GPT2LMHeadModel"
    elif kind.task not in TASKS:  # a pipeline of the user's own: the model that the folder is of
        name = (checkpoint.config.architectures or ["GPT2LMHeadModel"])[0]
    elif kind.head is None:
        name = "GPT2Model"
    else:
        load_head(checkpoint, kind.head, kind.task)  # from_pretrained would make a missing head at random
        name = HEAD_CLASSES[kind.head]
    if dtype == "auto" and place == "cpu":
        dtype = "float32"
    module = getattr(models, name).from_pretrained(checkpoint, dtype=dtype, **options)
    return module if "device_map" in options or place == "cpu" else module.to(place)


def _load_tokenizer(tokenizer: Any, folder: Path | None) -> Any:
    settings: dict[str, Any] = {}
    if isinstance(tokenizer, tuple):
        tokenizer, settings = tokenizer
    if tokenizer is not None and not isinstance(tokenizer, (str, os.PathLike)):
        return tokenizer
    source = folder if tokenizer is None else tokenizer
    if source is None:
        raise PipelineError("model is an object, so its tokenizer is not known; pass tokenizer=")
    from gpt2kit.tokenizer import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, **settings)


def _refuse_loading_options(model: Any, how: dict[str, Any]) -> None:
    """Raise PipelineError when options of loading come with something that is loaded already."""
    for name, value in how.items():
        if value not in (None, False, "auto"):
            raise PipelineError(
                f"{name}={value!r:.80} is for loading a model by name; {model!r:.80} is loaded already"
            )
