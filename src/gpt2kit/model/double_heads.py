"""The language model with a second head that chooses among continuations.

B batch, C choices a row, T positions, E n_embd.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.model.activations import get_activation
from gpt2kit.model.cache.caches import AnyCache
from gpt2kit.model.gpt2 import GPT2WithLMHead
from gpt2kit.model.inputs import check_tensors
from gpt2kit.model.losses import causal_lm_loss, cross_entropy
from gpt2kit.model.outputs import GPT2DoubleHeadsModelOutput


class GPT2SequenceSummary(nn.Module):
    """One vector for a sequence: a position's state or their mean, dropout, projection, activation, dropout.

    The configuration's summary_* settings choose each step. summary_type "attn" is refused: nobody has
    defined it.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        if config.summary_type == "attn":
            raise ConfigError(
                "summary_type is 'attn', which has no definition; use cls_index, last, first or mean"
            )
        self.summary_type = config.summary_type
        num_features = config.num_labels if config.summary_proj_to_labels else 0
        self.summary = (
            nn.Linear(config.n_embd, num_features or config.n_embd)
            if config.summary_use_proj
            else nn.Identity()
        )
        name = config.summary_activation
        self.activation = get_activation(name, "summary_activation") if name else nn.Identity()
        self.first_dropout = nn.Dropout(config.summary_first_dropout)
        self.last_dropout = nn.Dropout(getattr(config, "summary_last_dropout", None) or 0.0)

    def forward(self, hidden_states: Tensor, cls_index: Tensor | None = None) -> Tensor:
        """Summarise hidden_states (..., T, E) along T, to (..., features).

        cls_index (...): the position to take when summary_type is "cls_index"; by default the last.
        Raises ValueError for a cls_index of another shape or outside of 0 to T - 1.
        """
        if self.summary_type == "mean":
            y = hidden_states.mean(dim=-2)
        elif self.summary_type == "first":
            y = hidden_states[..., 0, :]
        elif self.summary_type == "last" or cls_index is None:
            y = hidden_states[..., -1, :]
        else:
            y = _take(hidden_states, cls_index)
        y = self.summary(self.first_dropout(y))
        summary: Tensor = self.last_dropout(self.activation(y))
        return summary


class GPT2DoubleHeadsModel(GPT2WithLMHead):
    """A language model that also scores each of several continuations as a whole.

    Sets num_labels of its configuration to 1: a choice has one score.
    """

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        config.num_labels = 1
        self.multiple_choice_head = GPT2SequenceSummary(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: AnyCache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        mc_token_ids: Tensor | None = None,
        labels: Tensor | None = None,
        mc_labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> GPT2DoubleHeadsModelOutput | tuple[Any, ...]:
        """Give logits (B, C, T, V) for the next token and mc_logits (B, C) for the choice.

        The trunk's arguments mean what they mean there, input_ids being (B, C, T). mc_token_ids (B, C): the
        position that each choice is judged at, by default the last, so give it when rows are padded. labels
        (B, C, T) are shifted here, -100 is ignored, and make `loss`; mc_labels (B,), the right choice of each
        row, make `mc_loss`. They are not added up.

        Raises ValueError for labels or mc_token_ids that do not fit.
        """
        trunk = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        )
        hidden = trunk.last_hidden_state
        logits = self.lm_head(hidden)
        mc_logits = self.multiple_choice_head(hidden, mc_token_ids).squeeze(-1)
        mc_loss = None
        if mc_labels is not None:
            check_tensors(mc_labels=mc_labels)
            choices = mc_logits.reshape(-1, mc_logits.shape[-1])
            mc_loss = cross_entropy(choices, mc_labels.reshape(-1), "mc_labels")
        output = GPT2DoubleHeadsModelOutput(
            loss=None if labels is None else causal_lm_loss(logits, labels),
            mc_loss=mc_loss,
            logits=logits,
            mc_logits=mc_logits,
            past_key_values=trunk.past_key_values,
            hidden_states=trunk.hidden_states,
            attentions=trunk.attentions,
        )
        return output if self._asks("return_dict", return_dict) else output.to_tuple()


def _take(hidden_states: Tensor, positions: Tensor) -> Tensor:
    """Give hidden_states (..., T, E) at positions (...), as (..., E)."""
    check_tensors(mc_token_ids=positions)
    if positions.is_floating_point() or positions.dtype == torch.bool:
        raise ValueError(f"mc_token_ids are {positions.dtype}; positions are integers, convert them")
    *leading, T, E = hidden_states.shape
    if list(positions.shape) != leading:
        raise ValueError(f"mc_token_ids have the shape {tuple(positions.shape)}; {tuple(leading)} is needed")
    if positions.numel() and not 0 <= int(positions.min()) <= int(positions.max()) < T:
        raise ValueError(
            f"mc_token_ids reach from {int(positions.min())} to {int(positions.max())}; allowed: 0 to {T - 1}"
        )
    index = positions.to(hidden_states.device, torch.long)[..., None, None].expand(*leading, 1, E)
    return hidden_states.gather(-2, index).squeeze(-2)
