"""Write docs/cli.md from the commands' own help; a test compares the two."""

from __future__ import annotations

from pathlib import Path

import click

from gpt2kit.cli.commands import COMMANDS, cli

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"

_HEAD = """# The command line

For everybody who uses gpt2kit from a terminal. This page is written by `scripts/write_cli_docs.py` from the
commands' own help; change the help, not the page.
"""

_TAIL = """
## Where text goes

Results go to stdout, everything else (notices, timings, errors) to stderr, so `gpt2kit run ... > out.txt` is clean.
On a terminal, control characters in generated text are shown as escapes (`--raw` turns that off); into a file or a
pipe the text goes as it is. The only colour is the red of `error:`, and only on a terminal; `NO_COLOR` and
`TERM=dumb` turn it off, `FORCE_COLOR` turns it on.

## Exit codes

| code | meaning |
|---|---|
| 0 | done |
| 1 | a known failure, explained in one line on stderr |
| 2 | wrong usage: an unknown option, a missing prompt |
| 130 | interrupted with Ctrl-C |
| 141 | the reader of the output has gone, as in `gpt2kit run ... \\| head -1` |

`--debug`, or `GPT2KIT_DEBUG=1`, adds the traceback of a failure.

## What `--json` prints

One JSON object. `gpt2kit run`:

| field | meaning |
|---|---|
| `model` | as given, or null for the built-in model |
| `engine` | `native` or `torch` |
| `prompt` | the text that was continued |
| `seed` | gives the same text again with `--seed` |
| `choices` | one object a continuation: `index`, `text` (new text only), `token_ids` (the end token included), `finish_reason` (`stop`, `length`), `stop_string` (the text of `--stop` that ended it, or null) |
| `usage` | `prompt_tokens`, `completion_tokens`, `total_tokens`, and in `completion_tokens_details` how many tokens that were guessed ahead were right and wrong: `accepted_prediction_tokens`, `rejected_prediction_tokens` |
| `timings` | seconds: `total_s`, `load_s`, `prompt_s` (up to the first new token), `generation_s` (the others) |

`gpt2kit run --task` with another task: `model`, `engine`, `task` and `results`, one object an input:

| task | fields |
|---|---|
| text-classification, zero-shot-classification | `text`, `labels` (`label`, `score`), best first |
| token-classification | `text`, `entities` (`entity_group`, `score`, `word`, `start`, `end`; with `--aggregation none` `entity` and `index`) |
| question-answering | `text` (the question), `context`, `answers` (`score`, `start`, `end`, `answer`), best first |
| feature-extraction | `text`, `tokens`, `features` (a list of numbers for each token) |

Without `--json` these are lines with tabs between their columns. Questions come with `--question`, or as lines of JSON
objects with `question` and `context`.

`gpt2kit score`:

| field | meaning |
|---|---|
| `model`, `engine` | as for `run` |
| `window`, `stride`, `bos` | what was used |
| `texts` | one object a text: `text`, `num_tokens`, `num_scored`, `num_bytes` (that the scored tokens stand for), `sum` and `mean` (of the log-probabilities, in nats), `perplexity` (null where nothing was scored or it is infinite), `bits_per_byte`; with `--per-token` also `tokens` (`id`, `text`, `log_probability`, which is null for a first token with `--no-bos`) |
| `total` | `num_texts`, and the same over all texts |

`gpt2kit tokenize`: `model`, `text`, `count`, `token_ids` and, unless with `--decode`, `tokens` (`id`, `token`, `text`).

`gpt2kit info MODEL`: `model`, `folder`, `config`, `parameters`, `tensors`, `dtypes`, `weights_bytes`, `files`.
`gpt2kit info`: `versions`, `python`, `system`, `processor`, `cpu_features`, `native`, `threads`, `memory_bytes`,
`cache_folder`, `offline`.

`gpt2kit bench`, on one line:

| field | meaning |
|---|---|
| `peer`, `size`, `precision`, `threads`, `isa` | what ran: `gpt2kit`, the model's name, the dtype of most weights or the quantisation |
| `load_s`, `first_token_s` | seconds to load, and from a prompt to its first new token |
| `prefill_tokens_per_s`, `decode_tokens_per_s`, `batch_decode_tokens_per_s` | medians; the last is of all rows together, null without `--batch` |
| `rss_mb` | peak memory of the process in MiB, the file's pages included |
| `prompt`, `decode`, `context`, `batch`, `repeats` | what was used |
| `weights_bytes` | size of the weights in memory |
| `limits` | `read_bytes_per_s`, and `operations_per_s` for each kind of arithmetic that the processor has: `best` and `median` |
| `phases` | `prefill`, `decode`, `batch_decode`: `tokens_per_s` of each round, `bytes_per_token`, `operations_per_token`, `reached` (the part of each limit, 1 being all) |

## Environment

| variable | meaning |
|---|---|
| `GPT2KIT_DEBUG=1` | show tracebacks |
| `GPT2KIT_ISA` | force `reference`, `avx2` or `avx512` for the native engine |
| `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_TOKEN`, `HF_ENDPOINT` | as for huggingface_hub, whose cache is used |
| `NO_COLOR`, `FORCE_COLOR`, `TERM=dumb` | colour on stderr |
"""


def render() -> str:
    """Return the page."""
    parts = [_HEAD]
    settings = {"terminal_width": 96, "max_content_width": 96, **cli.context_settings}
    with click.Context(cli, info_name="gpt2kit", **settings) as parent:
        parts.append(f"\n```\n{cli.get_help(parent)}\n```\n")
        for name in COMMANDS:
            command = cli.get_command(parent, name)
            assert command is not None
            with click.Context(command, info_name=name, parent=parent) as context:
                parts.append(f"\n## gpt2kit {name}\n\n```\n{command.get_help(context)}\n```\n")
    return "".join(parts) + _TAIL


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
