"""GPT-2 in PyTorch: the trunk and the language model.

Read top to bottom: a block is attention and an MLP, each behind a layer norm and added to the stream; the
trunk is embeddings, blocks and a last norm; the language model multiplies by the token embeddings. Parameter
names are those of the published checkpoints. Reading and writing of folders is in loading.py.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.model.activations import get_activation
from gpt2kit.model.attention import Conv1D, GPT2Attention
from gpt2kit.model.cache import DynamicCache, RaggedCache
from gpt2kit.model.loading import PreTrainedModel
from gpt2kit.model.losses import causal_lm_loss
from gpt2kit.model.outputs import BaseModelOutputWithPastAndCrossAttentions, CausalLMOutputWithCrossAttentions


class GPT2MLP(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        n_inner = config.n_inner if config.n_inner is not None else 4 * config.n_embd
        self.c_fc = Conv1D(n_inner, config.n_embd)
        self.c_proj = Conv1D(config.n_embd, n_inner)
        self.act = get_activation(config.activation_function)
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dropout(self.c_proj(self.act(self.c_fc(x))))
        return y


class GPT2Block(nn.Module):
    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: DynamicCache | RaggedCache | None, fused: bool
    ) -> tuple[Tensor, Tensor | tuple[Tensor | None, ...] | None]:
        y, weights = self.attn(self.ln_1(x), mask, cache, fused)
        x = x + y
        x = x + self.mlp(self.ln_2(x))
        return x, weights


class GPT2PreTrainedModel(PreTrainedModel):
    """What the trunk and every model with a head share."""

    def __init__(self, config: GPT2Config) -> None:
        if config.add_cross_attention:
            raise ConfigError(
                "add_cross_attention is true; this model has self-attention only, set it to false"
            )
        super().__init__(config)


class GPT2Model(GPT2PreTrainedModel):
    """The trunk: token ids to hidden states."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(GPT2Block(config, i) for i in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.init_weights()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: DynamicCache | RaggedCache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Run T new positions after the S - T that past_key_values holds.

        input_ids (..., T) or inputs_embeds (..., T, C), one of them; leading dimensions are flattened to B
        for the work and restored in last_hidden_state. attention_mask (B, S): 1 to attend, 0 to ignore; or
        (B, 1, T, S) for full control, bool or added to the scores. position_ids (B, T): default S - T to
        S - 1 whatever the mask says, so pad on the right or give them. token_type_ids (..., T) are looked up
        in wte and added. past_key_values is extended in place; use_cache makes one when there is none.

        Raises ValueError for inputs that contradict each other or exceed n_positions.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give input_ids or inputs_embeds, exactly one of them")
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = past_key_values if past_key_values is not None else DynamicCache() if use_cache else None

        embeds: Tensor = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        shape = embeds.shape  # (..., T, C)
        x = embeds.reshape(-1, *shape[-2:])  # (B, T, C)
        B, T, _ = x.shape
        past = 0 if cache is None or isinstance(cache, RaggedCache) else cache.get_seq_length()
        if position_ids is None:
            position_ids = self._next_positions(cache, T, x.device)
        x = x + self.wpe(position_ids.reshape(-1, T))
        if token_type_ids is not None:
            x = x + self.wte(token_type_ids.reshape(-1, T))
        x = self.drop(x)

        mask = _causal_mask(attention_mask, B, T, past, x)
        hidden_states: list[Tensor] | None = (
            [] if self._asks("output_hidden_states", output_hidden_states) else None
        )
        attentions: list[Any] | None = [] if self._asks("output_attentions", output_attentions) else None
        if isinstance(cache, RaggedCache) and mask is not None:
            raise ValueError("attention_mask does not go with rows of unequal length")
        fused = attentions is None and self.attn_implementation != "eager"
        for block in self.h:
            if hidden_states is not None:
                hidden_states.append(x.view(shape))
            x, weights = block(x, mask, cache, fused)
            if attentions is not None:
                attentions.append(weights)
        x = self.ln_f(x).view(shape)
        if hidden_states is not None:
            hidden_states.append(x)
        output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=x,
            past_key_values=cache if use_cache else None,
            hidden_states=None if hidden_states is None else tuple(hidden_states),
            attentions=None if attentions is None else tuple(attentions),
        )
        return output if self._asks("return_dict", return_dict) else output.to_tuple()

    def _next_positions(
        self, cache: DynamicCache | RaggedCache | None, T: int, device: torch.device
    ) -> Tensor:
        """Positions that follow the cached ones, (T,) or for unequal rows (1, T)."""
        if isinstance(cache, RaggedCache):
            return cache.position_ids(device)
        past = 0 if cache is None else cache.get_seq_length()
        if past + T > self.config.n_positions:
            raise ValueError(
                f"the input reaches position {past + T}; n_positions is {self.config.n_positions}; shorten it"
            )
        return torch.arange(past, past + T, device=device)


class GPT2WithLMHead(GPT2PreTrainedModel):
    """A trunk and a language model head, tied to the token embeddings unless the config says not to."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.init_weights(["lm_head.weight"])
        self.tie_weights()

    @classmethod
    def can_generate(cls) -> bool:
        """Tell that the model continues text."""
        return True

    def tie_weights(self) -> None:
        """Share the token embeddings with the head, if tie_word_embeddings is set."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight
            self.lm_head.out_features = self.transformer.wte.num_embeddings


class GPT2LMHeadModel(GPT2WithLMHead):
    """The language model."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: DynamicCache | RaggedCache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Give logits for the next token at each position, and with labels the mean cross-entropy in nats.

        The trunk's arguments mean what they mean there. labels (..., T) are shifted here: labels[t + 1] is
        the target at t, -100 is ignored; shift_labels are targets as they stand. num_items_in_batch divides
        the summed loss, for gradient accumulation. logits_to_keep: the last so many positions (0 for all), or
        the positions to keep (K,).
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
        )
        hidden = trunk.last_hidden_state
        if isinstance(logits_to_keep, Tensor):
            hidden = hidden[..., logits_to_keep, :]
        elif logits_to_keep:
            hidden = hidden[..., -logits_to_keep:, :]
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None or shift_labels is not None:
            loss = causal_lm_loss(logits, labels, shift_labels, num_items_in_batch)
        output = CausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits,
            past_key_values=trunk.past_key_values,
            hidden_states=trunk.hidden_states,
            attentions=trunk.attentions,
        )
        return output if self._asks("return_dict", return_dict) else output.to_tuple()


def _causal_mask(attention_mask: Tensor | None, B: int, T: int, past: int, x: Tensor) -> Tensor | None:
    """Combine causality with the caller's mask; None when plain causality is all there is to it."""
    if attention_mask is None:
        return None
    if attention_mask.dim() == 4:
        return attention_mask if attention_mask.dtype == torch.bool else attention_mask.to(x.dtype)
    S = past + T
    attention_mask = attention_mask.reshape(B, -1)
    if attention_mask.shape[1] != S:
        raise ValueError(
            f"attention_mask covers {attention_mask.shape[1]} positions; {S} are needed, {past} cached"
        )
    causal = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(past)
    return causal & attention_mask.to(x.device, torch.bool)[:, None, None, :]  # (B, 1, T, S)
