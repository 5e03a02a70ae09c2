"""AutoModel and AutoModelForCausalLM: the classes that a configuration of model_type gpt2 stands for."""

from typing import Any

from gpt2kit.model.gpt2 import GPT2LMHeadModel, GPT2Model


class AutoModel:
    """Makes a GPT2Model."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """Read a trunk; options as for GPT2Model.from_pretrained."""
        return GPT2Model.from_pretrained(pretrained_model_name_or_path, **options)

    @staticmethod
    def from_config(config: Any, **options: Any) -> GPT2Model:
        """Build a trunk with random weights; options as for GPT2Model.from_config."""
        return GPT2Model.from_config(config, **options)


class AutoModelForCausalLM:
    """Makes a GPT2LMHeadModel."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: Any, **options: Any) -> Any:
        """Read a language model; options as for GPT2LMHeadModel.from_pretrained."""
        return GPT2LMHeadModel.from_pretrained(pretrained_model_name_or_path, **options)

    @staticmethod
    def from_config(config: Any, **options: Any) -> GPT2LMHeadModel:
        """Build a language model with random weights; options as for GPT2LMHeadModel.from_config."""
        return GPT2LMHeadModel.from_config(config, **options)
