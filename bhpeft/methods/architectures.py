"""Say where each Hugging Face architecture keeps what the methods attach to.

To support another architecture, add one line to `ARCHITECTURES`; every test that runs over them
then covers it. Paths are relative: `layers` to the model without its head, the others to a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from bhpeft.errors import UnsupportedModel

# `layers=` of a method: all of them, the top n, or these.
Layers = int | tuple[int, ...] | None


@dataclass(frozen=True)
class Architecture:
    """Where the layers of a model are, and what is inside one.

    Attributes:
        layers: path of the list of layers.
        attention: the module that calls the attention interface; None where the model computes
            attention on its own, so that no prefix can be put before its keys.
        target_modules: LoRA's default targets, query and value, by their last name.
        feed_forward: the feed-forward module x ↦ FFN(x), whose input is also what an adapter
            reads; None where it has no module of its own.
        feed_forward_output: where `feed_forward` is None, the module (h, x) ↦ LayerNorm(W h + x)
            that ends the feed-forward block.
        key_value: inside `attention`, the linear modules of keys and of values, or the one module
            of queries, keys and values; empty where keys cannot be made apart from queries.
        attention_norm: the LayerNorm between a layer's input and `attention`; None where the
            norms come after the blocks.
        attention_projection: the linear module that ends the attention block.
        feed_forward_projection: the linear module that ends the feed-forward block.
        pooling: how hidden states become one vector a row: "mean", "first" or "last".
        folds: whether all draws can run in one forward pass; the alternative is one pass a draw.
    """

    layers: str
    attention: str | None
    target_modules: tuple[str, ...]
    feed_forward: str | None = None
    feed_forward_output: str | None = None
    key_value: tuple[str, ...] = ()
    attention_norm: str | None = None
    attention_projection: str | None = None
    feed_forward_projection: str | None = None
    pooling: str = "mean"
    folds: bool = True


# The mean of the tokens, although pooling the first one is cheaper: what it saves and what it costs
# in NLL on rows nobody trained on is in `python -m benchmarks epoch` and `time_to_accuracy`. A
# stream may ask for `pooling = "first"`.
_BERT = Architecture(
    layers="encoder.layer",
    attention="attention.self",
    target_modules=("query", "value"),
    feed_forward_output="output",
    key_value=("key", "value"),
    attention_projection="attention.output.dense",
    feed_forward_projection="output.dense",
)
_LLAMA = Architecture(
    layers="layers",
    attention="self_attn",
    target_modules=("q_proj", "v_proj"),
    feed_forward="mlp",
    key_value=("k_proj", "v_proj"),
    attention_norm="input_layernorm",
    attention_projection="self_attn.o_proj",
    feed_forward_projection="mlp.down_proj",
    pooling="last",
)

ARCHITECTURES: dict[str, Architecture] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "deberta-v2": Architecture(
        layers="encoder.layer",
        attention=None,
        target_modules=("query_proj", "value_proj"),
        feed_forward_output="output",
        attention_projection="attention.output.dense",
        feed_forward_projection="output.dense",
        # It projects its relative positions by the same query and key weights, once for all rows.
        folds=False,
    ),
    "distilbert": Architecture(
        layers="transformer.layer",
        attention="attention",
        target_modules=("q_lin", "v_lin"),
        feed_forward="ffn",
        key_value=("k_lin", "v_lin"),
        attention_projection="attention.out_lin",
        feed_forward_projection="ffn.lin2",
    ),
    "modernbert": Architecture(
        layers="layers",
        attention="attn",
        target_modules=("Wqkv",),
        feed_forward="mlp",
        key_value=("Wqkv",),
        attention_norm="attn_norm",
        attention_projection="attn.Wo",
        feed_forward_projection="mlp.Wo",
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "smollm3": _LLAMA,
    "gpt2": Architecture(
        layers="h",
        attention="attn",
        target_modules=("c_attn",),
        feed_forward="mlp",
        # No `key_value`: it gives its output the shape of its input, whatever the layers returned.
        attention_projection="attn.c_proj",
        feed_forward_projection="mlp.c_proj",
        pooling="last",
    ),
}


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Return where things are in `model`.

    Raises:
        UnsupportedModel: its architecture is not known; lists those that are.
    """
    kind = model.config.model_type
    if kind not in ARCHITECTURES:
        raise UnsupportedModel(
            f"No method knows where to attach to a {kind!r} model ({type(model).__name__})",
            expected=f"one of {', '.join(sorted(ARCHITECTURES))}",
            remedy="Choose such a base model, or add a line to "
            "bhpeft.methods.architectures.ARCHITECTURES.",
        )
    return ARCHITECTURES[kind]


def layers_of(model: PreTrainedModel, architecture: Architecture) -> list[nn.Module]:
    """Return the layers of `model`, from the input up."""
    found = model.base_model.get_submodule(architecture.layers)
    return list(found.children())


def chosen_layers(layers: Layers, count: int) -> list[int]:
    """Return the indices of the layers a method sits in, lowest first.

    Args:
        layers: None for all, n for the top n, or a tuple of indices.
        count: how many layers the model has.

    Raises:
        UnsupportedModel: it names layers the model does not have.
    """
    if layers is None:
        return list(range(count))
    chosen = list(range(count - layers, count)) if isinstance(layers, int) else sorted(set(layers))
    if not chosen or chosen[0] < 0 or chosen[-1] >= count:
        raise UnsupportedModel(
            "A method is to sit in layers this model does not have",
            found=f"layers = {layers}",
            expected=f"1 to {count} for the top ones, or indices from 0 to {count - 1}",
            remedy="Correct `layers` of the method.",
        )
    return chosen
