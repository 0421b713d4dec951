from __future__ import annotations

import numpy as np
import pytest
import torch

from bhpeft.errors import StateError
from bhpeft.models.encode import tokenizer_fingerprint
from bhpeft.models.tokens import TokenTable, Window, collate
from tests import tiny


def texts(count: int, longest: int = 40) -> list[str]:
    """Random texts with the skewed lengths of real ones."""
    source = tiny.generator()
    share = torch.rand(count, generator=source) ** 2
    lengths = (1 + share * (longest - 1)).long().tolist()
    words = torch.randint(4, tiny.VOCAB, (count, longest), generator=source).tolist()
    return [" ".join(f"w{w}" for w in row[:n]) for row, n in zip(words, lengths, strict=True)]


def chunks(rows: list[str], size: int):
    """Rows in pieces; labels are 0 1 2 0 1 2 and so on, row ids 100, 101 and so on."""
    for i in range(0, len(rows), size):
        some = rows[i : i + size]
        yield some, [(i + j) % 3 for j in range(len(some))], [100 + i + j for j in range(len(some))]


def build(folder, rows, size=7, window=64, content="digest", max_length=32, tokenizer=None):
    tokenizer = tokenizer or tiny.tokenizer()
    return TokenTable.build(
        chunks(rows, size), tokenizer, max_length, folder, content, window=window
    )


def unpadded(minibatch) -> dict[int, tuple[list[int], int]]:
    """Row id → (tokens, label), padding taken off by the mask."""
    return {
        int(row): (ids[mask.bool()].tolist(), int(label))
        for ids, mask, label, row in zip(
            minibatch["input_ids"],
            minibatch["attention_mask"],
            minibatch["labels"],
            minibatch["rows"],
            strict=True,
        )
    }


def test_what_is_read_is_what_was_written(tmp_path):
    """Every row comes back once, with its tokens, label and id, from windows cut anew."""
    rows = texts(300)
    table = build(tmp_path, rows)
    expected = {
        100 + i: ([int(word[1:]) for word in text.split()][:32], i % 3)
        for i, text in enumerate(rows)
    }
    assert len(table) == 300
    for read in (table.minibatches(16, tiny.generator()), table.ordered(16)):
        found: dict[int, tuple[list[int], int]] = {}
        for minibatch in read:
            assert found.keys().isdisjoint(minibatch["rows"].tolist())
            found |= unpadded(minibatch)
        assert found == expected


def test_minibatches_are_int64_and_padded_with_the_tokenizers_token(tmp_path):
    """The model gets what its own tokenizer would have made."""
    rows = texts(10)
    table = build(tmp_path, rows)
    minibatch = next(table.ordered(10))
    assert {tensor.dtype for tensor in minibatch.values()} == {torch.int64}
    order = minibatch["positions"].tolist()
    own = collate(tiny.tokenizer(), [rows[i] for i in order], 32)
    assert torch.equal(minibatch["input_ids"], own["input_ids"])
    assert torch.equal(minibatch["attention_mask"], own["attention_mask"])
    assert minibatch["input_ids"][0, -1] == tiny.PAD


def test_positions_put_predictions_back_in_order(tmp_path):
    """Scattering any per-row value by `positions` restores the order rows were written in."""
    table = build(tmp_path, texts(150))
    ids = torch.full((150,), -1)
    for minibatch in table.ordered(16):
        ids[minibatch["positions"]] = minibatch["rows"]
    assert ids.tolist() == list(range(100, 250))


def test_sorted_windows_hardly_pad(tmp_path):
    """Padded over real tokens: below 1.05 here, where random minibatches reach 1.9."""
    table = build(tmp_path, texts(2000, longest=60), window=1000, max_length=64)
    minibatches = list(table.minibatches(16, tiny.generator()))
    real = sum(int(m["attention_mask"].sum()) for m in minibatches)
    assert sum(m["input_ids"].numel() for m in minibatches) / real < 1.05
    lengths = torch.cat([m["attention_mask"].sum(1) for m in minibatches])
    random = lengths[torch.randperm(2000, generator=tiny.generator())].view(-1, 16)
    assert float(random.amax(1).sum() * 16 / real) > 1.5


def test_the_order_is_the_generators(tmp_path):
    """One seed gives one order, another seed or the next epoch another one."""
    table = build(tmp_path, texts(200))

    def order(source):
        return [tuple(m["rows"].tolist()) for m in table.minibatches(16, source)]

    source = tiny.generator(1)
    first, next_epoch = order(source), order(source)
    assert order(tiny.generator(1)) == first
    assert next_epoch != first
    assert order(tiny.generator(2)) != first
    assert {row for rows in next_epoch for row in rows} == set(range(100, 300))


def test_rows_of_one_length_do_not_always_meet(tmp_path):
    """Sorting by length does not freeze who shares a minibatch with whom."""
    table = build(tmp_path, ["w5 w6"] * 64)
    source = tiny.generator()
    epochs = [
        {frozenset(m["rows"].tolist()) for m in table.minibatches(8, source)} for _ in range(2)
    ]
    assert epochs[0].isdisjoint(epochs[1])


def test_steps_counts_the_minibatches_of_an_epoch(tmp_path):
    """150 rows in windows of 64, 64 and 22 make 4 + 4 + 2 minibatches of 16."""
    table = build(tmp_path, texts(150))
    assert table.steps(16) == len(list(table.minibatches(16, tiny.generator()))) == 10


def test_a_table_is_made_once(tmp_path):
    """The second time nothing is read, let alone tokenised."""
    first = build(tmp_path, texts(20))

    def untouched():
        raise AssertionError("the rows were read again")
        yield

    again = TokenTable.build(untouched(), tiny.tokenizer(), 32, tmp_path, "digest", window=64)
    assert again.path == first.path
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [{"content": "another"}, {"max_length": 16}, {"tokenizer": tiny.tokenizer(eos=True)}],
)
def test_another_batch_length_or_tokenizer_is_another_table(tmp_path, change):
    """Tokens are never reused for something they were not made from."""
    if "tokenizer" in change:
        change["tokenizer"].pad_token = "[EOS]"
    assert build(tmp_path, texts(20)).path != build(tmp_path, texts(20), **change).path


def test_using_a_tokenizer_does_not_change_its_fingerprint():
    """A call leaves truncation and padding behind in the tokenizer; they are not part of it."""
    tokenizer = tiny.tokenizer()
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["w4 w5", "w6"], truncation=True, max_length=4, padding=True)
    assert tokenizer_fingerprint(tokenizer) == before


def test_an_interrupted_build_leaves_nothing(tmp_path):
    """A table is complete or absent, so a crash cannot be mistaken for a short batch."""

    def failing():
        yield from chunks(texts(100), 50)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        TokenTable.build(failing(), tiny.tokenizer(), 32, tmp_path, "digest", window=64)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_written_window_by_window(tmp_path):
    """Memory is bounded: when the last piece is read, all full windows before it are on disk."""
    sizes = []

    def watched():
        for chunk in chunks(texts(640), 64):
            sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
            yield chunk

    TokenTable.build(watched(), tiny.tokenizer(), 32, tmp_path, "digest", window=64)
    assert sizes[-1] > sizes[5] > sizes[1]


def test_a_damaged_table_is_refused(tmp_path):
    """A truncated file is named, with what to do."""
    path = build(tmp_path, texts(50)).path
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(StateError, match=r"cannot be read.*Delete it"):
        TokenTable(path)


def test_a_megabyte_of_text_is_cut(tmp_path):
    """The tokenizer truncates; nothing downstream sees more than max_length tokens."""
    table = build(tmp_path, ["w5 " * 350_000, "w6"])
    assert sorted(len(ids) for ids, _ in unpadded(next(table.ordered(2))).values()) == [1, 32]


def test_an_empty_text_gets_one_token():
    """A tokenizer that adds nothing would leave a row with nothing to pool from."""
    minibatch = collate(tiny.tokenizer(), ["", "w5 w6"], 8)
    assert minibatch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert minibatch["input_ids"].tolist() == [[tiny.PAD, tiny.PAD], [5, 6]]


def test_no_rows_make_an_empty_table(tmp_path):
    table = build(tmp_path, [])
    assert len(table) == table.steps(8) == 0
    assert list(table.minibatches(8, tiny.generator())) == []


@pytest.mark.parametrize("pad", [0, 7])
def test_rows_of_a_window_are_padded_whatever_stands_behind_them(pad: int) -> None:
    """The last row has nothing behind it, and the others another row's tokens."""
    rows = [[9], [11, 12, 13], [14, 15], [16, 17, 18, 19], [20]]
    ends = np.cumsum([0, *map(len, rows)])
    numbers = np.arange(len(rows))
    tokens = np.array([token for row in rows for token in row], dtype=np.uint16)
    window = Window(0, tokens, ends, numbers, numbers, numbers)
    first, second = window.minibatches(np.array([4, 1, 3, 0, 2]), 3, pad)
    assert first["input_ids"].tolist() == [
        [20, pad, pad, pad],
        [11, 12, 13, pad],
        [16, 17, 18, 19],
    ]
    assert first["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert second["input_ids"].tolist() == [[9, pad], [14, 15]]
    assert second["attention_mask"].tolist() == [[1, 0], [1, 1]]
