"""OpenAI's own checkpoints are read, and no file however damaged does more than raise CheckpointError."""

from __future__ import annotations

import shutil
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tiny

import tensorflow_writer as writer
from gpt2kit.checkpoint import open_checkpoint, save_checkpoint, tensorflow_table
from gpt2kit.checkpoint.tensorflow_file import TensorFlowFile
from gpt2kit.config import AutoConfig, GPT2Config
from gpt2kit.errors import CheckpointError, ConfigError

CONFIG = GPT2Config(
    n_layer=11, n_head=2, n_embd=8, vocab_size=40, n_positions=8, bos_token_id=39, eos_token_id=39
)


@pytest.mark.parametrize("num_shards", [1, 3])
def test_weights_and_configuration_are_read(num_shards: int, tmp_path: Path) -> None:
    weights = tiny.tensors(CONFIG)
    writer.write_openai_folder(tmp_path, CONFIG, weights, num_shards)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == CONFIG
    assert AutoConfig.from_pretrained(tmp_path, n_head=1).n_head == 1
    assert checkpoint.names() == sorted(weights)
    for name, value in weights.items():
        assert np.array_equal(checkpoint.tensor(name), value)
        assert np.array_equal(np.concatenate(list(checkpoint.pieces(name))), value.ravel())
    assert checkpoint.file_bytes == sum(value.nbytes for value in weights.values())


def test_half_precision_and_foreign_tensors_are_told_apart(tmp_path: Path) -> None:
    weights = {name: value.astype(np.float16) for name, value in tiny.tensors(CONFIG).items()}
    tensors = writer.write_openai_folder(tmp_path, CONFIG, weights)
    foreign = {"global_step": np.array(7, np.int64), "model/wte/Adam": np.ones((40, 8), np.float32)}
    writer.write_bundle(tmp_path / "model.ckpt", tensors | foreign)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.info("wte.weight").dtype == "F16"
    assert set(checkpoint.names()) - set(weights) == {"global_step", "model/wte/Adam"}


def test_written_again_it_is_a_folder_for_everyone(tmp_path: Path) -> None:
    weights = tiny.tensors(CONFIG)
    writer.write_openai_folder(tmp_path / "openai", CONFIG, weights)
    read = open_checkpoint(tmp_path / "openai")
    save_checkpoint(tmp_path / "new", {name: read.tensor(name) for name in read.names()}, read.config)
    back = open_checkpoint(tmp_path / "new")
    assert all(np.array_equal(back.tensor(name), value) for name, value in weights.items())


def test_safetensors_beside_it_come_first(tmp_path: Path) -> None:
    writer.write_openai_folder(tmp_path, CONFIG, tiny.tensors(CONFIG))
    other = tiny.tensors(CONFIG, seed=1)
    save_checkpoint(tmp_path, other, CONFIG)
    assert np.array_equal(open_checkpoint(tmp_path).tensor("wte.weight"), other["wte.weight"])


def test_the_newest_of_several_is_the_one_that_checkpoint_names(tmp_path: Path) -> None:
    for step in (90, 100):
        tensors = writer.write_openai_folder(tmp_path, CONFIG, tiny.tensors(CONFIG, seed=step))
        writer.write_bundle(tmp_path / f"model-{step}", tensors)
    (tmp_path / "model.ckpt.index").unlink()
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "/home/someone/checkpoint/run1/model-90"\n'
        'all_model_checkpoint_paths: "/home/someone/checkpoint/run1/model-100"\n'
    )
    expected = tiny.tensors(CONFIG, seed=90)["wte.weight"]
    assert np.array_equal(open_checkpoint(tmp_path).tensor("wte.weight"), expected)
    (tmp_path / "checkpoint").unlink()
    with pytest.raises(
        CheckpointError, match=r"2 TensorFlow checkpoints \(model-100.index, model-90.index\)"
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("hparams", "says"),
    [
        ('{"n_vocab": 40}', r"hparams.json: it has the keys n_vocab; expected n_vocab, n_ctx"),
        ('{"n_vocab": "x", "n_ctx": 8, "n_embd": 8, "n_head": 2, "n_layer": 1}', r"vocab_size is 'x'"),
        ("[", r"hparams.json is not JSON"),
    ],
)
def test_bad_hparams_are_refused(hparams: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "hparams.json").write_text(hparams)
    with pytest.raises(ConfigError, match=says):
        GPT2Config.from_pretrained(tmp_path)


@pytest.mark.slow
def test_tensorflow_reads_the_fixture_and_writes_what_is_read(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    weights = tiny.tensors(CONFIG)
    tensors = writer.write_openai_folder(tmp_path / "ours", CONFIG, weights, num_shards=3)
    theirs = tf.train.load_checkpoint(str(tmp_path / "ours" / "model.ckpt"))
    assert set(theirs.get_variable_to_shape_map()) == set(tensors)
    assert all(np.array_equal(theirs.get_tensor(name), value) for name, value in tensors.items())
    (tmp_path / "theirs").mkdir()
    shutil.copy(tmp_path / "ours" / "hparams.json", tmp_path / "theirs")
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "theirs" / "model.ckpt"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    back = open_checkpoint(tmp_path / "theirs")
    assert all(np.array_equal(back.tensor(name), value) for name, value in weights.items())


def index_of(folder: Path, entries: dict[bytes, bytes], data: bytes = bytes(64)) -> Path:
    """Write a checkpoint of these entries behind a header for one data file."""
    header = {b"": writer.field(1, 1)}
    (folder / "model.ckpt.index").write_bytes(writer.table(header | entries))
    (folder / "model.ckpt.data-00000-of-00001").write_bytes(data)
    return folder / "model.ckpt.index"


def entry(**changes: int | bytes) -> bytes:
    """The message of a float32 tensor of shape (4, 4) at the start of the data, with some fields changed."""
    sizes = b"".join(writer.field(2, writer.field(1, size)) for size in (4, 4))
    fields = {"dtype": (1, 1), "shape": (2, sizes), "shard": (3, 0), "offset": (4, 0), "size": (5, 64)}
    fields["slices"] = (7, None)
    values = {name: changes.get(name, value) for name, (_, value) in fields.items()}
    message = b"".join(
        writer.field(fields[name][0], value) for name, value in values.items() if value is not None
    )
    return message + b"\x35" + writer.checksum(bytes(64))


def sizes(*values: int) -> bytes:
    return b"".join(writer.field(2, writer.field(1, value)) for value in values)


BAD_ENTRIES = {
    "offset past the end": (entry(offset=4), r"64 bytes at 4 of data file 0 are not there"),
    "offset of 2^63": (entry(offset=2**63), "are not there"),
    "a shard too many": (entry(shard=1), "of data file 1 are not there"),
    "a huge size": (entry(size=2**60), rf"needs 64 bytes, {2**60} are stored"),
    "a huge shape": (entry(shape=sizes(2**62, 2**62)), "are stored"),
    "a negative size": (entry(shape=sizes(2**64 - 1)), "no whole number below 2\\^63"),
    "nine dimensions": (entry(shape=sizes(*[1] * 9)), "9 dimensions; the limit is 8"),
    "an unknown rank": (entry(shape=writer.field(3, 1)), "unknown rank"),
    "another shape": (entry(shape=sizes(4, 5)), r"shape \(4, 5\) of F32 needs 80 bytes"),
    "another type": (entry(dtype=2), "of F64 needs 128 bytes"),
    "slices": (entry(slices=b"x"), "stored in slices"),
    "a cut message": (entry()[:-1], "ends where 4 more bytes are needed"),
    "a group": (b"\x0b" + entry(), "unknown kind 3"),
    "a number without end": (b"\xff" * 11, "more than 64 bits"),
}


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_entry_that_cannot_be_is_refused(case: str, tmp_path: Path) -> None:
    message, says = BAD_ENTRIES[case]
    path = index_of(tmp_path, {b"model/wte": message})
    with pytest.raises(CheckpointError, match=says) as caught:
        TensorFlowFile(path)
    assert "model.ckpt.index" in str(caught.value)


def test_tensors_inside_each_other_are_refused(tmp_path: Path) -> None:
    both = {b"model/wte": entry(), b"model/wpe": entry(offset=32)}
    with pytest.raises(CheckpointError, match="inside another tensor's"):
        TensorFlowFile(index_of(tmp_path, both, bytes(96)))


def test_one_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    both = {b"model/ln_f/g": entry(), b"model/ln_f/w": entry(offset=64)}
    with pytest.raises(CheckpointError, match="twice"):
        TensorFlowFile(index_of(tmp_path, both, bytes(128)))


@pytest.mark.parametrize("name", [b"-x", b"\xff", b"a" * 250 + b"\n"])
def test_names_that_are_none_are_refused(name: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no name of a tensor"):
        TensorFlowFile(index_of(tmp_path, {name: entry()}))


def test_damaged_data_is_found_when_it_is_asked_for(tmp_path: Path) -> None:
    writer.write_openai_folder(tmp_path, CONFIG, tiny.tensors(CONFIG))
    path = tmp_path / "model.ckpt.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensor("wpe.weight") is not None
    with pytest.raises(CheckpointError, match=r"00001: the checksum of 'wte.weight' is wrong"):
        checkpoint.tensor("wte.weight")


def one_block(content: bytes, handle: bytes = b"") -> bytes:
    """A table whose index block holds one entry, which points at this block."""
    data = content + b"\0" + writer.checksum(content + b"\0")
    index = writer.block([(b"z", handle or writer.varint(0) + writer.varint(len(content)))])
    place = len(data)
    data += index + b"\0" + writer.checksum(index + b"\0")
    footer = b"\0\0" + writer.varint(place) + writer.varint(len(index))
    return data + footer.ljust(40, b"\0") + writer.MAGIC.to_bytes(8, "little")


GOOD_BLOCK = writer.block([(b"a", b"1"), (b"b", b"2")])
BAD_TABLES = {
    "empty": (b"", "has 0 bytes"),
    "another magic": (one_block(GOOD_BLOCK)[:-1] + b"\0", "does not end as a TensorFlow index"),
    "a block past the end": (one_block(GOOD_BLOCK, b"\0\xff\xff\xff\x7f"), "reaches past the end"),
    "a block of 2^64": (one_block(GOOD_BLOCK, b"\0" + b"\xff" * 9 + b"\x7f"), "more than 64 bits"),
    "restart points past the start": (one_block(b"\xff\xff\xff\xff"), "4294967295 restart points"),
    "no restart points": (one_block(b"\0"), "restart points"),
    "a key that shares more than there is": (one_block(b"\x01\x01\x00a" + bytes(8)), "after 1 of a key of 0"),
    "a long key": (one_block(b"\x00\xff\xff\x7f\x00" + bytes(8)), "the limit is 256"),
    "a value without end": (one_block(b"\x00\x01\xff\xff\x7fa" + bytes(8)), "more bytes are needed"),
    "the same key twice": (one_block(writer.block([(b"a", b""), (b"a", b"")])), "not behind the one before"),
    "keys in another order": (
        one_block(writer.block([(b"b", b""), (b"a", b"")])),
        "not behind the one before",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_damaged_table_is_refused(case: str) -> None:
    content, says = BAD_TABLES[case]
    with pytest.raises(CheckpointError, match=says):
        tensorflow_table.read_table(content, "x.index")


def test_block_that_is_listed_twice_is_refused() -> None:
    content = GOOD_BLOCK + b"\0" + writer.checksum(GOOD_BLOCK + b"\0")
    handle = writer.varint(0) + writer.varint(len(GOOD_BLOCK))
    index = writer.block([(b"b", handle), (b"c", handle)])
    footer = b"\0\0" + writer.varint(len(content)) + writer.varint(len(index))
    content += index + b"\0" + writer.checksum(index + b"\0")
    content += footer.ljust(40, b"\0") + writer.MAGIC.to_bytes(8, "little")
    with pytest.raises(CheckpointError, match="inside the one before it"):
        tensorflow_table.read_table(content, "x.index")


def test_compressed_block_is_refused_with_the_reason() -> None:
    good = one_block(GOOD_BLOCK)
    packed = good[: len(GOOD_BLOCK)] + b"\1" + good[len(GOOD_BLOCK) + 1 :]
    with pytest.raises(CheckpointError, match="compressed block"):
        tensorflow_table.read_table(packed, "x.index")


def mutations(folder: Path, count: int, seed: int) -> int:
    """Open damaged checkpoints; gives how many were accepted, all of them harmless."""
    weights = tiny.tensors()
    writer.write_openai_folder(folder, tiny.CONFIG, weights)
    path = folder / "model.ckpt.index"
    good = path.read_bytes()
    data_bytes = (folder / "model.ckpt.data-00000-of-00001").stat().st_size
    rng = np.random.default_rng(seed)
    accepted = 0
    for _ in range(count):
        changed = bytearray(good)
        for _ in range(int(rng.integers(1, 4))):
            kind, at = int(rng.integers(5)), int(rng.integers(len(changed)))
            if kind == 0:
                changed[at] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                source = int(rng.integers(len(good)))
                changed[at : at + 8] = good[source : source + 8]
            elif kind == 2:
                changed[at : at + 4] = b"\xff" * 4
            elif kind == 3:
                changed[at:at] = bytes(rng.integers(256, size=3, dtype=np.uint8))
            elif at > 48:
                del changed[at - int(rng.integers(1, 48)) : at]
        path.unlink()
        path.write_bytes(changed)
        try:
            file = TensorFlowFile(path)
        except CheckpointError as error:
            assert len(str(error)) < 700 + len(str(path))
            continue
        accepted += 1
        assert sum(info.nbytes for info in file.tensors.values()) <= data_bytes
        file.map()
        for name, info in file.tensors.items():
            if info.dtype in ("F32", "F16", "BF16"):
                try:
                    assert file.view(name).nbytes == info.nbytes
                except CheckpointError:
                    continue
    return accepted


def test_mutated_files_only_raise_checkpoint_error(tmp_path: Path) -> None:
    assert mutations(tmp_path, 1000, seed=1) < 100  # nearly all are found out by a checksum


def test_mutated_files_with_right_checksums_only_raise_checkpoint_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorflow_table, "crc32c", lambda data: 0)
    monkeypatch.setattr(tensorflow_table, "unmask", lambda masked: 0)
    tracemalloc.start()
    start = time.process_time()
    accepted = mutations(tmp_path, 3000, seed=2)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < accepted < 3000
    assert peak < 16 * 2**20
    assert seconds < 30


def test_index_cut_at_every_byte_is_refused(tmp_path: Path) -> None:
    writer.write_openai_folder(tmp_path, tiny.CONFIG, tiny.tensors())
    path = tmp_path / "model.ckpt.index"
    good = path.read_bytes()
    for length in range(0, len(good), 3):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError):
            TensorFlowFile(path)
    path.write_bytes(good)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="are not there"):
        TensorFlowFile(path)
    data.unlink()
    with pytest.raises(CheckpointError, match="cannot be opened"):
        TensorFlowFile(path)
