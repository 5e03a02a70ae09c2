"""Every error that gpt2kit raises on purpose, and the class of its warnings.

    GPT2Error
      ConfigError (ValueError)         a configuration that cannot be a GPT-2
        ConfigTypeError (TypeError)    a setting of the wrong type, where Transformers raises a TypeError
      CheckpointError (ValueError)     a weights file that is damaged, hostile or of the wrong shape
      HubError (OSError)               a model name that cannot be resolved, online or in the cache
      TokenizerError (ValueError)      a vocabulary that is damaged, or text that cannot be encoded as asked
      GenerationError (ValueError)     options that contradict each other, or a prompt that does not fit
      ScoringError (ValueError)        a text or an option that cannot be scored
      PipelineError (ValueError)       an input or an option that a pipeline's task cannot take
        UnknownTaskError (KeyError)    a task that there is no pipeline for
      TrainingError (ValueError)       a batch, a schedule or an option that a training cannot use
      EngineError (RuntimeError)       an engine that cannot do what was asked of it
      MissingDependencyError (ImportError)  an optional package that is not installed

Each is also the built-in error that a caller would expect, so `except ValueError` keeps working.
A message says what was given, what is allowed and what to do.
"""


class GPT2Error(Exception):
    """A mistake that gpt2kit can explain; the command line prints it as one line."""


class GPT2Warning(UserWarning):
    """Something that may surprise, told once; gpt2kit.logging.set_verbosity_error() silences it."""


class ConfigError(GPT2Error, ValueError):
    """A configuration value has the wrong type, is out of range or contradicts another."""


class ConfigTypeError(ConfigError, TypeError):
    """A setting has the wrong type, where scripts written for Transformers expect a TypeError."""


class CheckpointError(GPT2Error, ValueError):
    """A weights file is damaged, hostile, incomplete or does not fit its configuration."""


class HubError(GPT2Error, OSError):
    """A model name could not be resolved to files, online or in the local cache."""


class TokenizerError(GPT2Error, ValueError):
    """A vocabulary is damaged, or an encoding was asked for that it cannot give."""


class GenerationError(GPT2Error, ValueError):
    """Generation options contradict each other, or a prompt does not fit the model."""


class ScoringError(GPT2Error, ValueError):
    """A text cannot be scored with this model and these options."""


class PipelineError(GPT2Error, ValueError):
    """A pipeline was given an input or an option that its task cannot take."""


class UnknownTaskError(PipelineError, KeyError):
    """There is no pipeline for a task, where scripts written for Transformers expect a KeyError."""

    __str__ = Exception.__str__  # a KeyError would put its message in quotes


class TrainingError(GPT2Error, ValueError):
    """A batch cannot be made, or a schedule or an option cannot be used."""


class EngineError(GPT2Error, RuntimeError):
    """An engine cannot do what was asked of it."""


class MissingDependencyError(GPT2Error, ImportError):
    """An optional package is needed for this and is not installed."""
