"""GPT-2 in PyTorch: the trunk and the language model.

Read top to bottom: a block is attention and an MLP, each behind a layer norm and added to the stream; the
trunk is embeddings, blocks and a last norm; the language model multiplies by the token embeddings. Parameter
names are those of the published checkpoints. Reading and writing of folders is in pretrained/.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.model.activations import get_activation
from gpt2kit.model.attention import Conv1D, GPT2Attention
from gpt2kit.model.cache.base import Cache, checked_cache
from gpt2kit.model.cache.caches import AnyCache, DynamicCache, EncoderDecoderCache, RaggedCache
from gpt2kit.model.generation_mixin import GenerationMixin
from gpt2kit.model.inputs import (
    check_encoder_states,
    check_inputs,
    check_kept,
    check_tensors,
    checked_rows,
    head_masks,
)
from gpt2kit.model.losses import causal_lm_loss
from gpt2kit.model.masks import AttentionMask, causal_mask, cross_mask
from gpt2kit.model.outputs import BaseModelOutputWithPastAndCrossAttentions, CausalLMOutputWithCrossAttentions
from gpt2kit.model.pretrained.base import PreTrainedModel


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


@dataclass
class AttentionRecord:
    """Attention weights as the blocks compute them, one Weights a layer."""

    attentions: list[Any] = field(default_factory=list)
    cross_attentions: list[Any] = field(default_factory=list)


class GPT2Block(nn.Module):
    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        if config.add_cross_attention:
            self.crossattention = GPT2Attention(config, layer_idx, is_cross_attention=True)
            self.ln_cross_attn = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)

    def forward(
        self,
        x: Tensor,
        mask: AttentionMask,
        cache: AnyCache | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_mask: AttentionMask | None = None,
        record: AttentionRecord | None = None,
    ) -> Tensor:
        """Give the stream after this block; attention weights go into the record, if there is one."""
        y, weights = self.attn(self.ln_1(x), mask, cache, None, head_mask, record is not None)
        if record is not None:
            record.attentions.append(weights)
        x = x + y
        if encoder_hidden_states is not None:
            y, weights = self.crossattention(
                self.ln_cross_attn(x),
                encoder_mask,
                cache,
                encoder_hidden_states,
                head_mask,
                record is not None,
            )
            if record is not None:
                record.cross_attentions.append(weights)
            x = x + y
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT2PreTrainedModel(PreTrainedModel):
    """What the trunk and every model with a head share."""

    config_class = GPT2Config
    main_input_name = "input_ids"

    @property
    def name_or_path(self) -> str:
        """The name or path that the configuration was loaded from, or ""."""
        return self.config.name_or_path

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model has a language model head, from which text can be generated."""
        return False


class GPT2Model(GPT2PreTrainedModel):
    """The trunk: token ids to hidden states."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(GPT2Block(config, i) for i in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        # Runs a block with less memory in training; see gradient_checkpointing_enable.
        self.block_checkpoint: Callable[..., Any] | None = None
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: AnyCache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        head_mask: Tensor | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Any, ...]:
        """Run T new positions after the S - T that past_key_values holds.

        input_ids (..., T) or inputs_embeds (..., T, C), one of them; leading dimensions are flattened to B
        for the work and restored in last_hidden_state. attention_mask (B, S): 1 to attend, 0 to ignore; or
        (B, 1, T, S) for full control, bool or added to the scores. position_ids (B, T): default S - T to
        S - 1 whatever the mask says, so pad on the right or give them. token_type_ids (..., T) are looked up
        in wte and added. past_key_values is extended in place; use_cache makes one when there is none.

        encoder_hidden_states (B, S', C) are what cross-attention reads, encoder_attention_mask (B, S') or 4-D.
        head_mask (H,), (L, H) or (L, B, H, T, S) multiplies attention weights, of cross-attention too.
        output_attentions gives the weights whatever the back end, (B, H, T, S) each.

        Raises ValueError for inputs that contradict each other or exceed n_positions.
        """
        check_tensors(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            head_mask=head_mask,
        )
        check_inputs(input_ids, inputs_embeds, self.config)
        if not isinstance(past_key_values, RaggedCache | None):
            checked_cache(past_key_values)
        cache, use_cache = self._prepared_cache(past_key_values, use_cache)
        embeds: Tensor = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        shape = embeds.shape  # (..., T, C)
        x = embeds.reshape(-1, *shape[-2:])  # (B, T, C)
        B, T, _ = x.shape
        if position_ids is None:
            position_ids = self._next_positions(cache, T, x.device)
        else:
            position_ids = checked_rows(position_ids, "position_ids", self.config.n_positions, B, T)
        x = x + self.wpe(position_ids)
        if token_type_ids is not None:
            x = x + self.wte(checked_rows(token_type_ids, "token_type_ids", self.config.vocab_size, B, T))
        x = self.drop(x)

        check_encoder_states(encoder_hidden_states, encoder_attention_mask, B, self.config)
        encoder_mask = None
        if encoder_hidden_states is not None:
            S = encoder_hidden_states.shape[1]
            encoder_mask = cross_mask(encoder_attention_mask, B, T, S, self.config, x)
        if isinstance(cache, RaggedCache):
            if attention_mask is not None or encoder_hidden_states is not None:
                raise ValueError("attention_mask and encoders do not go with rows of unequal length")
            mask = AttentionMask(is_causal=True)
        else:
            past = 0 if cache is None else cache.get_seq_length()
            mask = causal_mask(attention_mask, B, T, past + T, self.config, x)
        record = AttentionRecord() if self._asks("output_attentions", output_attentions) else None
        states: list[Tensor] | None = [] if self._asks("output_hidden_states", output_hidden_states) else None
        for block, factors in zip(self.h, head_masks(head_mask, self.config, x), strict=True):
            if states is not None:
                states.append(x.view(shape))
            inputs = (x, mask, cache, factors, encoder_hidden_states, encoder_mask, record)
            if self.training and self.block_checkpoint is not None:
                x = self.block_checkpoint(block, *inputs)
            else:
                x = block(*inputs)
        x = self.ln_f(x).view(shape)
        if states is not None:
            states.append(x)
        output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=x,
            past_key_values=cache if use_cache else None,
            hidden_states=None if states is None else tuple(states),
            attentions=None if record is None else tuple(record.attentions),
            cross_attentions=None if record is None else tuple(record.cross_attentions),
        )
        return output if self._asks("return_dict", return_dict) else output.to_tuple()

    def _prepared_cache(self, cache: AnyCache | None, use_cache: bool | None) -> tuple[AnyCache | None, bool]:
        """Give the cache to extend and whether to return it."""
        use_cache = self._asks("use_cache", use_cache)
        if self.training and self.block_checkpoint is not None:
            # A second run of a block would append its keys a second time.
            if cache is not None:
                raise ValueError(
                    "gradient checkpointing cannot extend past_key_values; disable it, or call model.eval()"
                )
            return None, False
        if cache is None and use_cache:
            cache = DynamicCache()
        is_single = isinstance(cache, Cache) and not isinstance(cache, EncoderDecoderCache)
        if use_cache and self.config.add_cross_attention and is_single:
            cache = EncoderDecoderCache(cache, DynamicCache())
        return cache, use_cache

    def _next_positions(self, cache: AnyCache | None, T: int, device: torch.device) -> Tensor:
        """Positions that follow the cached ones, (T,) or for unequal rows (1, T)."""
        if isinstance(cache, RaggedCache):
            return cache.position_ids(device)
        past = 0 if cache is None else cache.get_seq_length()
        if past + T > self.config.n_positions:
            raise ValueError(
                f"the input reaches position {past + T}; n_positions is {self.config.n_positions}; shorten it"
            )
        return torch.arange(past, past + T, device=device)


class GPT2WithLMHead(GenerationMixin, GPT2PreTrainedModel):
    """A trunk and a language model head, tied to the token embeddings unless the config says not to."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    @classmethod
    def can_generate(cls) -> bool:
        """Whether the model has a language model head: it has."""
        return True

    def tie_weights(self) -> None:
        """Share the token embeddings with the head if config.tie_word_embeddings is true, else part them."""
        table = self.transformer.wte
        if self.config.tie_word_embeddings:
            self.lm_head.weight = table.weight
            self.lm_head.out_features = table.num_embeddings
        elif self.lm_head.weight is table.weight:
            self.lm_head.weight = nn.Parameter(table.weight.detach().clone(), table.weight.requires_grad)


class GPT2LMHeadModel(GPT2WithLMHead):
    """The language model."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: AnyCache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        shift_labels: Tensor | None = None,
        num_items_in_batch: int | Tensor | None = None,
        head_mask: Tensor | None = None,
    ) -> CausalLMOutputWithCrossAttentions | tuple[Any, ...]:
        """Give logits for the next token at each position, and with labels the mean cross-entropy in nats.

        The trunk's arguments mean what they mean there. labels (..., T) are shifted here: labels[t + 1] is
        the target at t, -100 is ignored; shift_labels are targets as they stand. num_items_in_batch divides
        the summed loss, for gradient accumulation. logits_to_keep: the last so many positions (0 for all), or
        the positions to keep (K,).
        """
        check_kept(logits_to_keep, input_ids, inputs_embeds)
        trunk = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            head_mask=head_mask,
        )
        kept = logits_to_keep if isinstance(logits_to_keep, Tensor) else slice(-logits_to_keep, None)
        logits = self.lm_head(trunk.last_hidden_state[..., kept, :])
        loss = None
        if labels is not None or shift_labels is not None:
            loss = causal_lm_loss(logits, labels, shift_labels, num_items_in_batch)
        output = CausalLMOutputWithCrossAttentions(
            loss=loss,
            logits=logits,
            past_key_values=trunk.past_key_values,
            hidden_states=trunk.hidden_states,
            attentions=trunk.attentions,
            cross_attentions=trunk.cross_attentions,
        )
        return output if self._asks("return_dict", return_dict) else output.to_tuple()
