import pytest
import torch

from gpt2kit.config import GPT2Config
from gpt2kit.errors import ConfigError
from gpt2kit.model import GPT2LMHeadModel, GPT2Model
from gpt2kit.model.cache.caches import RaggedCache


def test_dropout_acts_only_in_training(model) -> None:
    ids = torch.arange(8)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


def test_input_past_the_last_position_is_refused(model) -> None:
    with pytest.raises(ValueError, match="position 17; n_positions is 16"):
        model(torch.zeros(1, 17, dtype=torch.long))
    cache = model(torch.zeros(1, 16, dtype=torch.long)).past_key_values
    with pytest.raises(ValueError, match="position 17"):
        model(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache)


@pytest.mark.parametrize(
    "inputs", [{}, {"input_ids": torch.zeros(1, 1).long(), "inputs_embeds": torch.zeros(1, 1, 12)}]
)
def test_exactly_one_kind_of_input_is_taken(model, inputs) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        model(**inputs)


def test_a_mask_of_the_wrong_length_is_refused(model) -> None:
    with pytest.raises(ValueError, match="must cover 1 rows of 4 positions"):
        model(torch.zeros(1, 4, dtype=torch.long), attention_mask=torch.ones(1, 3))


def test_labels_without_their_logits_are_refused(model) -> None:
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ValueError, match="logits_to_keep"):
        model(ids, labels=ids, logits_to_keep=1)


def test_a_fully_masked_row_gives_finite_logits(model) -> None:
    ids = torch.zeros(1, 4, dtype=torch.long)
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        assert model(ids, attention_mask=torch.zeros(1, 4)).logits.isfinite().all()


def test_use_cache_follows_the_config(config) -> None:
    ids = torch.zeros(1, 4, dtype=torch.long)
    assert GPT2Model(config)(ids).past_key_values.get_seq_length() == 4
    config.use_cache = False
    assert GPT2Model(config)(ids).past_key_values is None


@pytest.mark.parametrize("name", ["prelu", "xielu"])
def test_activations_with_weights_are_refused(config, name: str) -> None:
    config.activation_function = name
    with pytest.raises(ConfigError, match="weights of its own"):
        GPT2Model(config)


def test_the_head_is_tied_unless_the_config_says_not_to(config) -> None:
    tied = GPT2LMHeadModel(config)
    assert tied.lm_head.weight is tied.transformer.wte.weight
    config.tie_word_embeddings = False
    untied = GPT2LMHeadModel(config)
    assert untied.lm_head.weight is not untied.transformer.wte.weight
    assert untied.num_parameters() - tied.num_parameters() == 60 * 12


def test_a_new_embedding_table_takes_the_head_along(model) -> None:
    table = torch.nn.Embedding(60, 12)
    model.set_input_embeddings(table)
    assert model.get_input_embeddings() is table
    assert model.get_output_embeddings().weight is table.weight


def test_rows_of_unequal_length_share_a_call(model) -> None:
    ids = [torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5, 6, 7, 8]])]
    with torch.no_grad():
        expected = [model(row).logits[:, -2:] for row in ids]
        caches = [model(row[:, :-2]).past_key_values for row in ids]
        ragged = RaggedCache(caches, [2, 2])
        got = model(torch.cat([row[:, -2:] for row in ids], dim=1), past_key_values=ragged).logits
    torch.testing.assert_close(got, torch.cat(expected, dim=1), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="unequal"):
        model(torch.zeros(1, 2).long(), RaggedCache(caches, [1, 1]), attention_mask=torch.ones(1, 2))


def test_default_configuration_has_the_published_size() -> None:
    with torch.device("meta"):
        assert GPT2LMHeadModel(GPT2Config()).num_parameters() == 124_439_808
