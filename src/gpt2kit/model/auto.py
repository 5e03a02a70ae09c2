"""The AutoModel classes: what a configuration of model_type gpt2 stands for, by task."""

import os
from typing import Any, ClassVar

from gpt2kit.checkpoint import Checkpoint
from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.model.double_heads import GPT2DoubleHeadsModel
from gpt2kit.model.gpt2 import GPT2LMHeadModel, GPT2Model, GPT2PreTrainedModel
from gpt2kit.model.heads import (
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
)


class _Auto:
    _model: ClassVar[type[GPT2PreTrainedModel]]

    def __init__(self) -> None:
        name = type(self).__name__
        raise TypeError(
            f"{name} is designed to be instantiated using {name}.from_pretrained(name_or_path) or "
            f"{name}.from_config(config)"
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | Checkpoint | None, **options: Any
    ) -> Any:
        """Read a model; options as for from_pretrained of the class that it makes.

        A folder of another kind of model is refused with a ConfigError.
        """
        return cls._model.from_pretrained(pretrained_model_name_or_path, **options)

    @classmethod
    def from_config(cls, config: GPT2Config, **options: Any) -> Any:
        """Build a model with random weights; options as for from_config of the class that it makes."""
        if not isinstance(config, GPT2Config):
            raise ConfigError(
                f"{cls.__name__}.from_config got a {type(config).__module__}.{type(config).__name__}; give a "
                "gpt2kit.GPT2Config"
            )
        return cls._model.from_config(config, **options)

    _from_config = from_config


class AutoModel(_Auto):
    """Makes a GPT2Model."""

    _model = GPT2Model


class AutoModelForCausalLM(_Auto):
    """Makes a GPT2LMHeadModel."""

    _model = GPT2LMHeadModel


class AutoModelForPreTraining(_Auto):
    """Makes a GPT2LMHeadModel: GPT-2 was trained on nothing but the next token."""

    _model = GPT2LMHeadModel


class AutoModelForMultipleChoice(_Auto):
    """Makes a GPT2DoubleHeadsModel, whose second head chooses."""

    _model = GPT2DoubleHeadsModel


class AutoModelForSequenceClassification(_Auto):
    """Makes a GPT2ForSequenceClassification."""

    _model = GPT2ForSequenceClassification


class AutoModelForTokenClassification(_Auto):
    """Makes a GPT2ForTokenClassification."""

    _model = GPT2ForTokenClassification


class AutoModelForQuestionAnswering(_Auto):
    """Makes a GPT2ForQuestionAnswering."""

    _model = GPT2ForQuestionAnswering
