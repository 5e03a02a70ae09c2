"""The two tables of a model with one row a token: reached, replaced and resized. V tokens, C channels."""

import math

import torch
from torch import Tensor, nn

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.model.quantized.linear import QuantizedLinear

# Of the old rows' covariance, for new rows: enough to tell them apart, too little to change what is likely.
_SPREAD = 1e-9


class EmbeddingAccess(nn.Module):
    """What a model knows of its token embeddings (`wte`) and its language model head (`lm_head`), if any."""

    config: GPT2Config
    base_model_prefix = "transformer"

    @property
    def base_model(self) -> nn.Module:
        """The trunk."""
        trunk: nn.Module = getattr(self, self.base_model_prefix, self)
        return trunk

    def tie_weights(self) -> None:
        """Share the weights that are one in the checkpoint; a model without lm_head has none."""

    def get_input_embeddings(self) -> nn.Embedding:
        embeddings: nn.Embedding = self.base_model.wte  # type: ignore[assignment]  # nn.Module's attributes are untyped
        return embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token embeddings; a tied head follows."""
        self.base_model.wte = value
        self.tie_weights()

    def get_output_embeddings(self) -> nn.Linear | None:
        """Give the language model head; None in a model without one."""
        head: nn.Linear | None = getattr(self, "lm_head", None)
        return head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the language model head; give it tied weights, or set tie_word_embeddings to false.

        Raises ConfigError in a model without such a head, and for a head with a bias or another width.
        """
        if self.get_output_embeddings() is None:
            raise ConfigError(
                f"{type(self).__name__} has no output embeddings; only an lm_head can be replaced"
            )
        if new_embeddings.bias is not None or new_embeddings.in_features != self.config.n_embd:
            raise ConfigError(
                f"the new head is {new_embeddings}; give one of in_features={self.config.n_embd} and bias=False"
            )
        self.add_module("lm_head", new_embeddings)

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """Give the embeddings, and an untied head, rows for new_num_tokens tokens; return the embeddings.

        Rows are added or cut off at the end, and config.vocab_size follows. pad_to_multiple_of rounds the
        number up, that of today without new_num_tokens. New rows are drawn close around the mean of the old
        ones, so that new tokens are neither likely nor unlikely before training, or without mean_resizing
        from N(0, initializer_range). Optimizers that hold the old weights must be made anew.

        Raises ConfigError for a number that vocab_size cannot be.
        """
        old = self.get_input_embeddings()
        if new_num_tokens is None and pad_to_multiple_of is None:
            return old
        V = old.num_embeddings if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of is not None:
            if type(pad_to_multiple_of) is not int or pad_to_multiple_of < 1:
                raise ConfigError(f"pad_to_multiple_of is {pad_to_multiple_of!r}; allowed: an integer from 1")
            V = -(-V // pad_to_multiple_of) * pad_to_multiple_of
        self.config.vocab_size = V  # refuses what is no size, before anything is changed
        std = None if mean_resizing else self.config.initializer_range
        head = self.get_output_embeddings()
        is_shared = head is not None and head.weight is old.weight
        if old.num_embeddings != V:
            new = nn.Embedding(V, old.embedding_dim, device="meta")
            new.weight = _resized(old.weight, V, std)
            self.set_input_embeddings(new)
        if head is not None:
            head.weight = self.get_input_embeddings().weight if is_shared else _resized(head.weight, V, std)
            head.out_features = V
        return self.get_input_embeddings()

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of weights, a tied head counted once; exclude_embeddings leaves out wte and wpe."""
        left_out = {
            id(m.weight) for m in self.modules() if exclude_embeddings and isinstance(m, nn.Embedding)
        }
        packed = {
            id(m.weight): m.in_features * m.out_features
            for m in self.modules()
            if isinstance(m, QuantizedLinear)
        }
        return sum(
            packed.get(id(p), p.numel())
            for p in self.parameters()
            if id(p) not in left_out and (p.requires_grad or not only_trainable)
        )

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes that the weights take, a tied head counted once, and with return_buffers the buffers too.

        Scales of quantised weights are not counted, as they are not in Transformers: 4 bytes in 64 weights, or 1
        with double quantisation.
        """
        held = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.nbytes for tensor in held)


@torch.no_grad()
def _resized(weight: Tensor, num_rows: int, std: float | None) -> Tensor:
    """Copy weight (V, C) with rows added or cut off; new rows from N(0, std), or around the mean if None."""
    V, C = weight.shape
    if num_rows == V:
        return weight
    rows = weight.detach()[:num_rows].clone()
    if num_rows > V:
        if std is not None:
            new = torch.empty(num_rows - V, C, device=weight.device).normal_(0.0, std)
        else:
            new = _around_mean(weight.detach().float(), num_rows - V)
        rows = torch.cat((rows, new.to(weight.dtype)))
    return nn.Parameter(rows, requires_grad=weight.requires_grad)


def _around_mean(rows: Tensor, count: int) -> Tensor:
    """Draw `count` rows from a normal distribution with the rows' mean and a little of their covariance.

    Random mixtures of the centred rows have that covariance, also where it has no Cholesky factor: with fewer
    rows than channels.
    """
    mean = rows.mean(dim=0)
    mixture = torch.randn(count, rows.shape[0], device=rows.device) * math.sqrt(_SPREAD / rows.shape[0])
    return mean + mixture @ (rows - mean)
