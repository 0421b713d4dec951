"""Turn texts into token ids, and token ids into padded tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from bhpeft.models.packing import SEPARATOR, joined, room

# Padded tokens over real ones that a minibatch may have before it is cut.
PADDED = 1.1


def encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> list[list[int]]:
    """Return each text's token ids, cut at `max_length`, special tokens included.

    Never an empty list: a decoder's tokenizer adds nothing to an empty text, and a row needs one
    token to be pooled from, so it gets the padding token.
    """
    if not texts:
        return []
    if any(SEPARATOR in text for text in texts):
        return [_encode_packed(tokenizer, text, max_length) for text in texts]
    encoded: list[list[int]] = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=False,
    )["input_ids"]
    return [ids or [tokenizer.pad_token_id] for ids in encoded]


def _encode_packed(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> list[int]:
    """Return the tokens of a question and its answers, no answer longer than half of `most`."""
    asked, *answers = text.split(SEPARATOR)
    pad = int(tokenizer.pad_token_id)
    options = {"truncation": False, "return_attention_mask": False, "verbose": False}
    question = [token for token in tokenizer(asked, **options)["input_ids"] if token != pad]
    said = [
        [
            token
            for token in tokenizer(f" {one}", add_special_tokens=False, **options)["input_ids"]
            if token != pad
        ][: max(1, most // 2)]
        for one in answers
    ]
    return joined(room(question, said, most), said, pad)


def collate(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
) -> dict[str, Tensor]:
    """Return one minibatch of texts as they come: input_ids and attention_mask, (B, T) int64."""
    return padded(encode(tokenizer, texts, max_length), tokenizer.pad_token_id)


def padded(rows: Sequence[Sequence[int] | NDArray[Any]], pad: int) -> dict[str, Tensor]:
    """Return input_ids and attention_mask, (B, T) int64, padded on the right to the longest row."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    real = np.arange(lengths.max(initial=0)) < lengths[:, None]
    ids = np.full(real.shape, pad, dtype=np.int64)
    if len(rows):
        ids[real] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(real.astype(np.int64)),
    }


def cuts(lengths: Sequence[int], most: int) -> Iterator[NDArray[np.int64]]:
    """Yield the places of rows that are padded together, the shortest rows first.

    Lengths of real texts have a long tail: the 200 shortest of 200 texts hold 24 tokens a row, and
    padded to the longest of them 60. So a piece ends when it is full, or when one row more would
    leave it more padded than `PADDED` times its tokens, if it is a quarter full by then.

    Args:
        lengths: tokens of each row.
        most: rows of a piece.
    """
    order = np.argsort(np.asarray(lengths), kind="stable")
    begin = tokens = 0
    for end, place in enumerate(order):
        count, length = end - begin, int(lengths[place])
        wide = (count + 1) * length > PADDED * (tokens + length) and 4 * count >= most
        if count == most or wide:
            yield order[begin:end]
            begin, tokens = end, 0
        tokens += length
    if len(order):
        yield order[begin:]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of everything that decides which ids a text becomes."""
    digest = sha256(type(tokenizer).__name__.encode())
    digest.update(str(tokenizer.pad_token_id).encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        digest.update(json.dumps(tokenizer.get_vocab(), sort_keys=True).encode())
        return digest.hexdigest()
    model = json.loads(backend.to_str())
    # What the last call asked for, not what the tokenizer is.
    model.pop("truncation", None)
    model.pop("padding", None)
    digest.update(json.dumps(model, sort_keys=True).encode())
    return digest.hexdigest()
