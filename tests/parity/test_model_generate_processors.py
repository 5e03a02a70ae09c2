"""model.generate() with every processor, healing and watermarks against Transformers: the same ids."""

from __future__ import annotations

import random
import warnings

import pytest

import gpt2kit
from fakes import write_tiny_model
from gpt2kit.errors import GenerationError
from processor_options import VOCAB_SIZE, random_processor_options

torch = pytest.importorskip("torch")
hf = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same model and tokenizer in Transformers and here."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    write_tiny_model(folder)
    theirs = hf.GPT2LMHeadModel.from_pretrained(folder), hf.AutoTokenizer.from_pretrained(folder)
    theirs[1].pad_token = theirs[1].eos_token
    ours = gpt2kit.GPT2LMHeadModel.from_pretrained(folder), gpt2kit.AutoTokenizer.from_pretrained(folder)
    return theirs, (ours[0].eval(), ours[1])


@pytest.mark.parametrize("seed", range(25))
def test_options_of_processors_act_as_in_transformers(pair, seed):
    (theirs, _), (ours, _) = pair
    rng = random.Random(seed)
    options = random_processor_options(rng)
    ids = torch.tensor([[rng.randrange(VOCAB_SIZE) for _ in range(6)] for _ in range(3)])
    if "guidance_scale" in options:
        options["negative_prompt_ids"] = torch.tensor(
            [[rng.randrange(VOCAB_SIZE) for _ in range(3)] for _ in range(3)]
        )
    options |= {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.generate(ids, **options)
        for engine in ("native", "torch"):
            assert torch.equal(ours.generate(ids, engine=engine, **options), expected), (options, engine)


def test_guidance_does_not_see_padding(pair):
    _, (ours, _) = pair
    options = {"guidance_scale": 1.7, "max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": []}
    alone = ours.generate(torch.tensor([[5, 6]]), negative_prompt_ids=torch.tensor([[7]]), **options)
    together = ours.generate(
        torch.tensor([[0, 0, 5, 6], [1, 2, 3, 4]]),
        attention_mask=torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
        negative_prompt_ids=torch.tensor([[0, 7], [8, 9]]),
        negative_prompt_attention_mask=torch.tensor([[0, 1], [1, 1]]),
        **options,
    )
    assert together[0, 4:].tolist() == alone[0, 2:].tolist()


def test_healed_generations_are_transformers(pair):
    (theirs, their_tokenizer), (ours, tokenizer) = pair
    for text in ("we hel", "wh", "a h", "hello wh"):
        ids = torch.tensor([tokenizer.encode(text)])
        expected = theirs.heal_tokens(ids, their_tokenizer)
        assert torch.equal(ours.heal_tokens(ids, tokenizer), expected)
        options = {"max_new_tokens": 5, "token_healing": True, "attention_mask": torch.ones_like(ids)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert torch.equal(
                ours.generate(ids, tokenizer=tokenizer, **options),
                theirs.generate(ids, tokenizer=their_tokenizer, **options),
            )


def test_padded_rows_are_healed_at_their_last_token(pair):
    _, (ours, tokenizer) = pair
    short, long = tokenizer.encode("hel"), tokenizer.encode("we hel")
    gap = len(long) - len(short)
    left = torch.tensor([[0] * gap + short, long])
    right = torch.tensor([short + [0] * gap, long])
    alone = [
        ours.generate(
            torch.tensor([ids]), tokenizer=tokenizer, token_healing=True, max_new_tokens=3, eos_token_id=[]
        )[0].tolist()
        for ids in (short, long)
    ]
    for ids in (left, right):
        mask = torch.ones_like(ids)
        mask[0] = (ids[0] != 0).long()
        rows = ours.generate(
            ids,
            attention_mask=mask,
            tokenizer=tokenizer,
            token_healing=True,
            max_new_tokens=3,
            eos_token_id=[],
            pad_token_id=0,
        )
        assert [token for token in rows[0].tolist() if token != 0] == alone[0]
        assert rows[1].tolist() == alone[1]


def test_healing_is_refused_where_there_is_no_token_to_replace(pair):
    _, (ours, tokenizer) = pair
    with pytest.raises(GenerationError, match="must pass the model's tokenizer"):
        ours.generate(torch.tensor([[1, 2]]), token_healing=True)
    embeds = torch.zeros(1, 3, ours.config.n_embd)
    with pytest.raises(GenerationError, match="does not go with inputs_embeds"):
        ours.generate(inputs_embeds=embeds, token_healing=True, tokenizer=tokenizer)


def test_our_own_processors_and_criteria_run_in_generate(pair):
    (theirs, _), (ours, _) = pair
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    results = []
    for module, model in ((hf, theirs), (gpt2kit, ours)):
        chain = module.LogitsProcessorList([
            module.MinLengthLogitsProcessor(8, 11), module.NoRepeatNGramLogitsProcessor(1)
        ])  # fmt: skip
        results.append(
            model.generate(
                ids,
                logits_processor=chain,
                stopping_criteria=module.StoppingCriteriaList([module.MaxLengthCriteria(9)]),
                max_new_tokens=20,
                pad_token_id=0,
                eos_token_id=11,
                attention_mask=torch.ones_like(ids),
            )
        )
    assert torch.equal(*results)
