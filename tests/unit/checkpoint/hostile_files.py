"""Damaged and hostile safetensors files: each a name, the file's bytes and what the error must say."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tiny


class Case(NamedTuple):
    name: str
    content: bytes | Callable[[Path], None]  # the bytes, or what makes the file
    says: str  # a regular expression


def _raw(text: bytes) -> bytes:
    return tiny.pack(text, b"")


def _with(change: Callable[[dict[str, Any]], Any], data: Callable[[bytes], bytes] = lambda d: d) -> bytes:
    header, content = tiny.entries(tiny.tensors())
    change(header)
    return tiny.pack(header, data(content))


def _wte(**values: Any) -> bytes:
    """A good file whose entry of wte.weight, which has shape [11, 4], is changed."""
    return _with(lambda header: header["wte.weight"].update(values))


def _wte_json(old: str, new: str) -> bytes:
    header, data = tiny.entries(tiny.tensors())
    text = json.dumps(header)
    assert text.count(old) >= 1
    return tiny.pack(text.replace(old, new, 1).encode(), data)


def _rename(new: str) -> bytes:
    return _with(lambda header: header.update({new: header.pop("ln_f.bias")}))


def _sparse(length: int, size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(length.to_bytes(8, "little") + b"{")
        os.truncate(path, size)

    return make


def _move(name: str, by: int) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        begin, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = [begin + by, end + by]

    return change


def _all_share_the_first_bytes(header: dict[str, Any]) -> None:
    for entry in header.values():
        begin, end = entry["data_offsets"]
        entry["data_offsets"] = [0, end - begin]


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return buffer.getvalue()


_F32_OFFSETS = '"dtype": "F32", "shape": [11, 4], "data_offsets": [0, 176]'
_GOOD = _with(lambda header: None)
_HEADER_LENGTH = int.from_bytes(_GOOD[:8], "little")
_JSON = _GOOD[8 : 8 + _HEADER_LENGTH]
_DATA = _GOOD[8 + _HEADER_LENGTH :]
_W = r"tensor 'wte\.weight'"

CASES = [
    # The file and the length of the header.
    Case("empty", b"", "has 0 bytes"),
    Case("seven_bytes", b"\0" * 7, "has 7 bytes"),
    Case("header_of_no_bytes", b"\0" * 8, "does not start"),
    Case("length_2_63", tiny.pack(_JSON, _DATA, 2**63), "claims 9223372036854775808 bytes"),
    Case("length_2_64_less_1", tiny.pack(_JSON, _DATA, 2**64 - 1), "claims 18446744073709551615 bytes"),
    Case("length_over_the_limit", _sparse(100_000_001, 100_000_100), "limit is 100000000"),
    Case("length_of_zeros", _sparse(99_999_000, 100_000_000), "more than 4194304 bytes of JSON"),
    Case("length_past_the_end", tiny.pack(_JSON, b"", len(_JSON) + 1), "but the file has"),
    Case("length_too_short", tiny.pack(_JSON, _DATA, len(_JSON) - 1), "is not JSON"),
    Case("named_pipe", os.mkfifo, "not an ordinary file"),
    Case("folder", os.mkdir, "has no weights|not an ordinary file"),
    # The JSON.
    Case("not_utf8", _raw(b'{"\xff": 1}'), "not JSON in UTF-8"),
    Case("not_json", _raw(b"{this is no JSON}"), "not JSON"),
    Case("json_array", _raw(b"[]"), "does not start"),
    Case("leading_space", tiny.pack(b" " + _JSON, _DATA), "does not start"),
    Case("byte_order_mark", tiny.pack(b"\xef\xbb\xbf" + _JSON, _DATA), "does not start"),
    Case("second_object", tiny.pack(_JSON + b"{}", _DATA), "not JSON"),
    Case("padding_of_nul", tiny.pack(_JSON + b"\0" * 8, _DATA), "not JSON"),
    Case("deeper_than_any", _raw(b'{"a":' + b"[" * 1_000_000), "no GPT-2 has"),
    Case("deep_arrays", _raw(b'{"a":' + b"[" * 49_000), "nested too deeply"),
    Case("deep_objects", _raw(b'{"a":' * 24_000), "nested too deeply"),
    Case("deep_metadata", _raw(b'{"__metadata__":' + b'{"a":' * 24_000 + b"}" * 24_001), "nested too deeply"),
    Case("number_of_5000_digits", _raw(b'{"wte.weight":' + b"9" * 5000 + b"}"), "not JSON"),
    Case("five_megabytes_of_json", _raw(b'{"wte.weight":[' + b"0," * 2_500_000 + b"0]}"), "bytes of JSON"),
    Case("name_of_ten_megabytes", _raw(b'{"' + b"a" * 10_000_000 + b'":0}'), "bytes of JSON"),
    Case(
        "many_tensors", _raw(b"{" + b",".join(b'"a%d":0' % i for i in range(330_000)) + b"}"), "no GPT-2 has"
    ),
    Case("many_lists", _raw(b'{"a":[' + b"[]," * 1_000_000 + b"0]}"), "no GPT-2 has"),
    Case("many_numbers", _raw(b'{"a":[' + b"999," * 1_000_000 + b"0]}"), "no GPT-2 has"),
    Case("many_objects", _raw(b'{"a":[' + b"{}," * 1_000_000 + b"0]}"), "no GPT-2 has"),
    Case(
        "as_many_names_as_pass",
        _raw(b"{" + b",".join(b'"a%d":0' % i for i in range(119_000)) + b"}"),
        "tensor 'a0'",
    ),
    Case("as_many_numbers_as_pass", _raw(b'{"a":[' + b"999," * 199_000 + b"0]}"), "tensor 'a'"),
    Case("as_many_floats_as_pass", _raw(b'{"a":[' + b"1e9," * 199_000 + b"0]}"), "tensor 'a'"),
    Case("same_tensor_twice", tiny.pack(_JSON[:-1] + b',"wte.weight":0}', _DATA), "key 'wte.weight' twice"),
    Case(
        "same_key_twice", _wte_json('"dtype": "F32"', '"dtype": "F32", "dtype": "F16"'), "key 'dtype' twice"
    ),
    Case("metadata_number", _with(lambda h: h.update(__metadata__={"format": 1})), "__metadata__"),
    Case("metadata_list", _with(lambda h: h.update(__metadata__=["pt"])), "__metadata__"),
    Case("metadata_nested", _with(lambda h: h.update(__metadata__={"a": {"b": "c"}})), "__metadata__"),
    # Names and entries.
    Case("name_of_300", _rename("a" * 300), "tensor 'aaa.*: a name is"),
    Case("name_empty", _rename(""), "tensor '': a name is"),
    Case("name_with_nul", _rename("ln_f.bias\0"), r"tensor 'ln_f.bias\\x00': a name is"),
    Case("name_with_escape", _rename("\x1b[31m"), r"tensor '\\x1b\[31m': a name is"),
    Case("name_leads_out", _rename("../../ln_f.bias"), "tensor '../../ln_f.bias': a name is"),
    Case("entry_null", _with(lambda h: h.update({"wte.weight": None})), f"{_W}: an entry has"),
    Case("entry_list", _with(lambda h: h.update({"wte.weight": [1, 2]})), f"{_W}: an entry has"),
    Case("entry_without_shape", _with(lambda h: h["wte.weight"].pop("shape")), f"{_W}: an entry has"),
    Case("entry_with_more", _wte(code="import os"), f"{_W}: an entry has"),
    # dtype.
    Case("dtype_f8", _wte(dtype="F8_E4M3"), f"{_W}: dtype is 'F8_E4M3'"),
    Case("dtype_f4", _wte(dtype="F4"), f"{_W}: dtype is 'F4'"),
    Case("dtype_unknown", _wte(dtype="F33"), f"{_W}: dtype is 'F33'"),
    Case("dtype_number", _wte(dtype=32), f"{_W}: dtype is 32"),
    Case("dtype_list", _wte(dtype=["F32"]), f"{_W}: dtype is"),
    Case("dtype_bool", _wte(dtype="BOOL", shape=[11, 16]), rf"{_W} has shape \(11, 16\)"),
    Case("dtype_int32", _wte(dtype="I32"), f"{_W} has dtype I32"),
    Case("dtype_of_other_size", _wte(dtype="F64"), f"{_W}: shape .* needs 352 bytes, but"),
    # Shapes.
    Case("shape_negative", _wte(shape=[-11, -4]), f"{_W}: shape .* no whole number"),
    Case("shape_float", _wte(shape=[11.0, 4]), f"{_W}: shape .* no whole number"),
    Case("shape_infinite", _wte_json("[11, 4]", "[1e999, 4]"), f"{_W}: shape .* no whole number"),
    Case("shape_nan", _wte_json("[11, 4]", "[NaN, 4]"), f"{_W}: shape .* no whole number"),
    Case("shape_text", _wte(shape=["11", 4]), f"{_W}: shape .* no whole number"),
    Case("shape_true", _wte(shape=[True, 44]), f"{_W}: shape .* no whole number"),
    Case("shape_2_64", _wte(shape=[2**64, 4]), f"{_W}: shape .* no whole number"),
    Case("shape_wraps_to_zero", _wte(shape=[2**32, 2**32]), f"{_W}: shape .* more than the file has"),
    Case("shape_wraps_to_size", _wte(shape=[2**62 + 11, 4]), f"{_W}: shape .* more than the file has"),
    Case("shape_times_zero", _wte(shape=[2**62, 2**62, 0], data_offsets=[0, 0]), f"{_W}|hole"),
    Case("shape_with_zero", _wte(shape=[0, 4], data_offsets=[0, 0]), "leaving a hole"),
    Case("shape_of_rank_9", _wte(shape=[11, 4, 1, 1, 1, 1, 1, 1, 1]), f"{_W}: shape .* at most 8"),
    Case("shape_of_rank_0", _wte(shape=[]), f"{_W}: shape .* needs 4 bytes, but"),
    Case("shape_of_rank_3", _wte(shape=[11, 2, 2]), rf"{_W} has shape \(11, 2, 2\)"),
    Case("shape_number", _wte(shape=44), f"{_W}: shape is 44"),
    Case("shape_nested", _wte(shape=[[11], [4]]), f"{_W}: shape .* no whole number"),
    Case(
        "shape_turned",
        _wte(shape=[4, 11]),
        rf"{_W} has shape \(4, 11\); the configuration makes it \(11, 4\)",
    ),
    Case("shape_other_bytes", _wte(shape=[11, 5]), f"{_W}: shape .* needs 220 bytes, but .* span 176"),
    # Offsets.
    Case("offsets_negative", _wte(data_offsets=[-176, 0]), f"{_W}: data_offsets .* not in order inside"),
    Case("offsets_float", _wte(data_offsets=[0.0, 176.0]), f"{_W}: data_offsets .* two whole numbers"),
    Case("offsets_three", _wte(data_offsets=[0, 88, 176]), f"{_W}: data_offsets .* two whole numbers"),
    Case("offsets_text", _wte(data_offsets="0,176"), f"{_W}: data_offsets .* two whole numbers"),
    Case("offsets_turned", _wte(data_offsets=[176, 0]), f"{_W}: data_offsets .* not in order inside"),
    Case(
        "offsets_past_the_end", _wte(data_offsets=[10**6, 10**6 + 176]), f"{_W}: data_offsets .* not in order"
    ),
    Case("offsets_2_64", _wte(data_offsets=[2**64, 2**64 + 176]), f"{_W}: data_offsets .* not in order"),
    Case("overlap", _with(_move("wpe.weight", -16)), r"tensor 'wpe\.weight': .* inside another"),
    Case("overlap_of_all", _with(_all_share_the_first_bytes), "inside another"),
    Case("hole", _with(_move("ln_f.bias", 8), lambda d: d + b"\0" * 8), r"tensor 'ln_f\.bias': .* hole"),
    Case("hole_at_the_start", _with(lambda h: h.pop("wte.weight")), "leaving a hole after byte 0"),
    Case("bytes_after", _with(lambda h: None, lambda d: d + b"\0"), "1 bytes after its last tensor"),
    Case("zip_behind", _with(lambda h: None, lambda d: d + _zip()), "bytes after its last tensor"),
    Case("data_cut_short", _GOOD[:-1], r"tensor 'ln_f\.bias': data_offsets .* not in order inside"),
    Case(
        "data_cut_away", _GOOD[: 8 + _HEADER_LENGTH], f"{_W}: .* more than the file has|not in order inside"
    ),
    # A good file that is not this model.
    Case("no_tensors", tiny.pack({}, b""), r"tensor 'wte\.weight' and 15 more .* missing"),
    Case(
        "name_with_and_without_prefix",
        tiny.pack(*tiny.entries({**tiny.tensors(), "transformer.wte.weight": tiny.tensors()["wte.weight"]})),
        "tensor 'transformer.wte.weight' is there twice",
    ),
    Case(
        "one_tensor_missing",
        tiny.pack(*tiny.entries({n: a for n, a in tiny.tensors().items() if n != "h.0.attn.c_attn.bias"})),
        r"tensor 'h\.0\.attn\.c_attn\.bias' .* missing",
    ),
]
