"""Build tiny Hugging Face models and tokenizers from configs: two layers, hidden size 32.

Everything is deterministic and nothing is downloaded. Weights are larger than a fresh model's, so
that attention is not flat and a mistake anywhere shows in the output.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Generator, Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from bhpeft.methods import ARCHITECTURES
from bhpeft.models.load import LoadedBase, in_memory

VOCAB = 64
PAD = 1  # RoBERTa derives positions from it, so every tiny model uses the same one.

_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
    "pad_token_id": PAD,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def generator(seed: int = 0) -> Generator:
    """Return a seeded CPU generator."""
    return Generator().manual_seed(seed)


def bert(layers: int = 2) -> PreTrainedModel:
    return seeded(BertModel, BertConfig(num_hidden_layers=layers, **_SIZES))


def roberta(layers: int = 2) -> PreTrainedModel:
    return seeded(RobertaModel, RobertaConfig(num_hidden_layers=layers, **_SIZES))


def distilbert(layers: int = 2) -> PreTrainedModel:
    config = DistilBertConfig(
        vocab_size=VOCAB,
        dim=32,
        n_heads=4,
        hidden_dim=48,
        n_layers=layers,
        max_position_embeddings=80,
        pad_token_id=PAD,
    )
    return seeded(DistilBertModel, config)


def modernbert(layers: int = 2) -> PreTrainedModel:
    """A sliding window narrower than the texts, in every layer but the first."""
    config = ModernBertConfig(
        num_hidden_layers=layers,
        local_attention=6,
        global_attn_every_n_layers=2,
        cls_token_id=2,
        sep_token_id=3,
        **_SIZES,
    )
    return seeded(ModernBertModel, config)


def llama(layers: int = 2) -> PreTrainedModel:
    """Four query heads on two key-value heads."""
    return seeded(LlamaModel, llama_config(layers))


def llama_config(layers: int = 2) -> LlamaConfig:
    return LlamaConfig(num_hidden_layers=layers, num_key_value_heads=2, **_SIZES)


def gpt2(layers: int = 2) -> PreTrainedModel:
    return seeded(GPT2Model, gpt2_config(layers))


def gpt2_config(layers: int = 2) -> GPT2Config:
    return GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_head=4,
        n_inner=48,
        n_layer=layers,
        n_positions=80,
        pad_token_id=PAD,
        bos_token_id=2,
        eos_token_id=3,
    )


def deberta(layers: int = 2) -> PreTrainedModel:
    """Relative attention and the convolution, as in the published checkpoints."""
    config = DebertaV2Config(
        num_hidden_layers=layers,
        relative_attention=True,
        position_buckets=16,
        pos_att_type=["p2c", "c2p"],
        conv_kernel_size=3,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        **_SIZES,
    )
    return seeded(DebertaV2Model, config)


# The architectures on which everything has to hold, prefixes included.
FAMILIES: dict[str, Callable[..., PreTrainedModel]] = {
    "bert": bert,
    "roberta": roberta,
    "distilbert": distilbert,
    "modernbert": modernbert,
    "llama": llama,
    "gpt2": gpt2,
}


def cousin(kind: str) -> PreTrainedModel:
    """Return a model of an architecture that shares its layout with one of the FAMILIES."""
    options = dict(_SIZES, num_hidden_layers=2)
    if ARCHITECTURES[kind].feed_forward == "mlp":
        options |= {"num_key_value_heads": 2, "head_dim": 8}
    return seeded(AutoModel.from_config, AutoConfig.for_model(kind, **options))


def of_kind(kind: str) -> PreTrainedModel:
    """Return a model of any architecture that is listed."""
    builds = FAMILIES | {"deberta-v2": deberta}
    return builds[kind]() if kind in builds else cousin(kind)


def tokenizer(eos: bool = False) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer of VOCAB words w4 … w63; with `eos`, one without padding."""
    words = {"[UNK]": 0, "[PAD]": PAD, "[BOS]": 2, "[EOS]": 3}
    words |= {f"w{i}": i for i in range(4, VOCAB)}
    backend = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    special = {"eos_token": "[EOS]"} if eos else {"pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **special)


def saved(folder: Path, family: str = "bert") -> Path:
    """Save a model and its tokenizer, as a stream file names a base, and return where."""
    FAMILIES[family]().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def base(family: str = "bert", layers: int = 2) -> LoadedBase:
    """Return a tiny base model with its tokenizer, as `load_base` would."""
    build = FAMILIES.get(family, deberta)
    return in_memory(build(layers), tokenizer(), f"tiny-{family}")


def minibatch(rows: int = 3, tokens: int = 9, seed: int = 0) -> dict[str, Tensor]:
    """Return `rows` random texts of different lengths, the longest of `tokens`, right-padded."""
    ids = torch.randint(4, VOCAB, (rows, tokens), generator=generator(seed))
    lengths = torch.tensor([max(1, tokens - 2 * row) for row in range(rows)])
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    return {"input_ids": ids.where(mask.bool(), PAD), "attention_mask": mask}


def draw(
    shapes: dict[str, tuple[int, ...]], draws: int | None = None, seed: int = 1, std: float = 0.3
) -> dict[str, Tensor]:
    """Return random weights by name, with a leading dimension where `draws` is given."""
    source = generator(seed)
    lead = () if draws is None else (draws,)
    return {
        name: std * torch.randn((*lead, *shape), generator=source) for name, shape in shapes.items()
    }


def seeded(kind: Any, config: Any) -> Any:
    """Build any model of `config` with every weight drawn from a seed."""
    config.attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name.lower():
                torch.nn.init.normal_(parameter, std=0.25)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()
