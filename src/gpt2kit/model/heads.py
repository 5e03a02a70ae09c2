"""Classifiers on the trunk: of a text, of each token, and of the first and last token of an answer.

The trunk's arguments mean what they mean in GPT2Model.forward. B batch, T positions, N num_labels.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.model.cache.caches import AnyCache
from gpt2kit.model.gpt2 import GPT2Model, GPT2PreTrainedModel
from gpt2kit.model.inputs import check_tensors
from gpt2kit.model.losses import classification_loss, cross_entropy, infer_problem_type, span_loss
from gpt2kit.model.outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)


class GPT2ForSequenceClassification(GPT2PreTrainedModel):
    """Judges a whole text from its last token, the only one that has seen all of it."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        self.score = nn.Linear(config.n_embd, config.num_labels, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: AnyCache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> SequenceClassifierOutputWithPast | tuple[Any, ...]:
        """Give logits (B, N) at each row's last token that is not config.pad_token_id, and a loss.

        Padding may be on either side. With inputs_embeds, where padding cannot be told, the last position is
        taken, with a warning. labels as for classification_loss; when config.problem_type is None it is set
        from the first labels seen: one label is regression, integers are classes, floats are several labels.

        Raises ValueError for a batch without a pad_token_id, and for labels that do not fit.
        """
        given = input_ids if input_ids is not None else inputs_embeds
        if given is not None:
            self._check_batch(given, 2 if given is input_ids else 3)
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
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        logits = self.score(hidden[rows, self._last_positions(input_ids)])
        loss = None
        if labels is not None:
            check_tensors(labels=labels)
            if self.config.problem_type is None:
                self.config.problem_type = infer_problem_type(labels, self.num_labels)
            loss = classification_loss(logits, labels, self.config.problem_type)
        output = SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=trunk.past_key_values,
            hidden_states=trunk.hidden_states,
            attentions=trunk.attentions,
        )
        return output if self._asks("return_dict", return_dict) else output.to_tuple()

    def _check_batch(self, given: Tensor, num_dimensions: int) -> None:
        check_tensors(**{"input_ids" if num_dimensions == 2 else "inputs_embeds": given})
        if given.dim() != num_dimensions:
            raise ValueError(
                f"the input has the shape {tuple(given.shape)}; give one row of positions a text"
            )
        if self.config.pad_token_id is None and given.shape[0] != 1:
            raise ValueError(
                "Cannot handle batch sizes > 1 if no padding token is defined. Set config.pad_token_id, or "
                "give one text at a time"
            )

    def _last_positions(self, input_ids: Tensor | None) -> Tensor | int:
        """Position of each row's last token that is not padding, (B,), or -1 for the last one of all."""
        if self.config.pad_token_id is None:
            return -1
        if input_ids is None:
            warnings.warn(
                f"{type(self).__name__} cannot see padding in inputs_embeds and takes the last position of "
                "each row; give input_ids if rows are padded on the right",
                stacklevel=2,
            )
            return -1
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        return (positions * (input_ids != self.config.pad_token_id)).amax(dim=1)


class GPT2ForTokenClassification(GPT2PreTrainedModel):
    """Judges every token from what stands up to it."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        self.dropout = nn.Dropout(_classifier_dropout(config))
        self.classifier = nn.Linear(config.n_embd, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: AnyCache | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> TokenClassifierOutput | tuple[Any, ...]:
        """Give logits (..., T, N), and with labels (..., T) the mean cross-entropy; -100 is ignored.

        past_key_values is extended, but the output has no place for a cache, so none is made: use_cache is
        taken for the sake of a common signature and changes nothing.
        """
        trunk = self.transformer(
            input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        )
        logits = self.classifier(self.dropout(trunk.last_hidden_state))
        output = TokenClassifierOutput(
            loss=None if labels is None else cross_entropy(logits, labels),
            logits=logits,
            hidden_states=trunk.hidden_states,
            attentions=trunk.attentions,
        )
        return output if self._asks("return_dict", return_dict) else output.to_tuple()


class GPT2ForQuestionAnswering(GPT2PreTrainedModel):
    """Finds an answer in a text: scores every position as its first and as its last."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        self.qa_outputs = nn.Linear(config.n_embd, 2)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
    ) -> QuestionAnsweringModelOutput | tuple[Any, ...]:
        """Give start_logits and end_logits (B, T), and a loss if both kinds of positions (B,) are given.

        Positions as for span_loss: those past the end of the text count for nothing.
        """
        trunk = self.transformer(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            head_mask=head_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        )
        start_logits, end_logits = self.qa_outputs(trunk.last_hidden_state).unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start_logits, end_logits, start_positions, end_positions)
        output = QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits.contiguous(),
            end_logits=end_logits.contiguous(),
            hidden_states=trunk.hidden_states,
            attentions=trunk.attentions,
        )
        return output if self._asks("return_dict", return_dict) else output.to_tuple()


def _classifier_dropout(config: GPT2Config) -> float:
    """classifier_dropout or hidden_dropout, which not every configuration has, else 0.1."""
    for name in ("classifier_dropout", "hidden_dropout"):
        value: float | None = getattr(config, name, None)
        if value is not None:
            return value
    return 0.1
