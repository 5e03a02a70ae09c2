"""Where special tokens go around one sequence or a pair: the post-processor of a tokenizer.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpt2kit.errors import TokenizerError


@dataclass(frozen=True)
class Slot:
    """The place of a sequence: 0 for the first, 1 for the second of a pair."""

    sequence: int
    type_id: int


@dataclass(frozen=True)
class SpecialSlot:
    """The place of a special token."""

    token: str
    id: int
    type_id: int


@dataclass(frozen=True)
class Template:
    """What stands around one sequence and around a pair.

    trim_offsets: leave the white space of a token out of its offsets; trim_keeps_first: but not a space that
    add_prefix_space may have put before the first token.
    """

    single: tuple[Slot | SpecialSlot, ...] = (Slot(0, 0),)
    pair: tuple[Slot | SpecialSlot, ...] = (Slot(0, 0), Slot(1, 1))
    trim_offsets: bool = False
    trim_keeps_first: bool = True

    def parts(self, is_pair: bool) -> tuple[Slot | SpecialSlot, ...]:
        return self.pair if is_pair else self.single

    def num_special(self, is_pair: bool) -> int:
        return sum(isinstance(part, SpecialSlot) for part in self.parts(is_pair))


def bos_eos_template(bos: tuple[str, int] | None, eos: tuple[str, int] | None) -> Template:
    """Put BOS before and EOS after each sequence, of a pair each; None leaves one out."""

    def around(sequence: int) -> tuple[Slot | SpecialSlot, ...]:
        before = () if bos is None else (SpecialSlot(*bos, sequence),)
        after = () if eos is None else (SpecialSlot(*eos, sequence),)
        return (*before, Slot(sequence, sequence), *after)

    return Template(around(0), (*around(0), *around(1)))


def read_template(value: Any) -> Template:
    """Read the post_processor of a tokenizer.json; TokenizerError for kinds that GPT-2 does not use."""
    if value is None:
        return Template()
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "ByteLevel":
        return Template(
            trim_offsets=bool(value.get("trim_offsets", True)),
            trim_keeps_first=bool(value.get("add_prefix_space", True)),
        )
    if kind == "TemplateProcessing":
        special = value.get("special_tokens")
        return Template(
            _read_parts(value.get("single"), special, is_pair=False),
            _read_parts(value.get("pair"), special, is_pair=True),
        )
    if kind == "Sequence" and isinstance(value.get("processors"), list):
        result = Template()
        for processor in value["processors"]:
            read = read_template(processor)
            if read.trim_offsets:
                result = Template(result.single, result.pair, True, read.trim_keeps_first)
            if processor.get("type") == "TemplateProcessing":
                result = Template(read.single, read.pair, result.trim_offsets, result.trim_keeps_first)
        return result
    raise TokenizerError(
        f"post_processor {kind!r} is not one that a GPT-2 tokenizer has; it may be ByteLevel, "
        "TemplateProcessing or "
        "a Sequence of them"
    )


def _read_parts(items: Any, special: Any, *, is_pair: bool) -> tuple[Slot | SpecialSlot, ...]:
    name = "pair" if is_pair else "single"
    try:
        parts: list[Slot | SpecialSlot] = []
        for item in items:
            ((kind, fields),) = item.items()
            if kind == "Sequence":
                parts.append(Slot({"A": 0, "B": 1}[fields["id"]], int(fields["type_id"])))
            else:
                token = special[fields["id"]]
                parts += [
                    SpecialSlot(str(text), int(id), int(fields["type_id"]))
                    for text, id in zip(token["tokens"], token["ids"], strict=True)
                ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"the {name!r} template of the post_processor is damaged: {error!r}") from None
    sequences = [part.sequence for part in parts if isinstance(part, Slot)]
    if sorted(sequences) != ([0, 1] if is_pair else [0]):
        raise TokenizerError(f"the {name!r} template of the post_processor must hold each sequence once")
    return tuple(parts)


def write_template(template: Template) -> dict[str, Any]:
    """Write a template as a tokenizer.json has it."""

    def items(parts: tuple[Slot | SpecialSlot, ...]) -> list[dict[str, Any]]:
        return [
            {"Sequence": {"id": "AB"[part.sequence], "type_id": part.type_id}}
            if isinstance(part, Slot)
            else {"SpecialToken": {"id": part.token, "type_id": part.type_id}}
            for part in parts
        ]

    special = {
        part.token: {"id": part.token, "ids": [part.id], "tokens": [part.token]}
        for part in (*template.single, *template.pair)
        if isinstance(part, SpecialSlot)
    }
    processing = {
        "type": "TemplateProcessing",
        "single": items(template.single),
        "pair": items(template.pair),
        "special_tokens": special,
    }
    if not template.trim_offsets:
        return processing
    trim = {
        "type": "ByteLevel",
        "add_prefix_space": template.trim_keeps_first,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {"type": "Sequence", "processors": [trim, processing]}
