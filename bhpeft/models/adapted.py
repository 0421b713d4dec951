"""Put a base model, its PEFT methods and a task's head together into one model.

    model = AdaptedModel(base, [LoRA(), Prefix()], labels=4, generator=generator)
    with model.swapped(draw):                  # weights by name, (…) or (S, …)
        logits = model.logits(minibatch)       # (S·B, C), draws-major: row s·B + b

The model does not know that anything is Bayesian. It sees how many draws the weights in place
have, and tiles the minibatch that often, as late in the model as is exact (`bhpeft.models.fold`).

Dropout stays off: its noise would come from torch's global generator, and the draws of the
posterior are the noise that belongs here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from bhpeft.errors import ModelError, StateError, did_you_mean
from bhpeft.methods import Method, Site, Sites, architecture_of, attach, bypassed, swapped
from bhpeft.methods.architectures import layers_of
from bhpeft.methods.prefix import PrefixKeyValue
from bhpeft.methods.sampled import tile
from bhpeft.methods.sites import INPUT
from bhpeft.models.devices import Spread, free_bytes
from bhpeft.models.fold import Fold
from bhpeft.models.frozen_layers import FrozenLayers
from bhpeft.models.heads import HeadFactory, LinearHead
from bhpeft.models.last_layer import last_layer_of
from bhpeft.models.load import LoadedBase
from bhpeft.models.pace import FOLDED_ROWS
from bhpeft.models.pooling import POOLINGS, POSITIONS, mean_pooled

Minibatch = Mapping[str, Tensor]


class AdaptedModel:
    """A frozen base, the methods attached to it, and a head; the base is changed in place.

    Attributes:
        base: what was loaded.
        model: the transformers model, with the methods inside.
        sites: every trainable weight by name: the methods' and "head.weight", "head.bias".
        labels: C, how many numbers the head gives for a row.
        pooling: how hidden states become one vector a row.
        folded_rows: rows times draws that a pass of a prediction should have at most.
    """

    def __init__(
        self,
        base: LoadedBase,
        methods: Sequence[Method],
        labels: int,
        pooling: str | None = None,
        *,
        generator: Generator,
        head: HeadFactory = LinearHead,
    ):
        architecture = architecture_of(base.model)
        self.base = base
        self.model = base.model
        self.labels = labels
        self.folded_rows = FOLDED_ROWS
        attached = attach(self.model, methods, generator)
        self.head = head(base, labels, generator)
        self.sites = attached + Sites(self.head.sites())
        self.pooling = self.head.pooling or pooling or architecture.pooling
        if self.pooling not in POOLINGS:
            raise ModelError(
                f"There is no pooling called {self.pooling!r}",
                expected=f"one of {', '.join(POOLINGS)}",
                remedy=did_you_mean(self.pooling, POOLINGS),
            )
        self.model.eval()
        self._folds = architecture.folds
        self._layers = layers_of(self.model, architecture)
        self._fold = Fold()
        self._fold.hook(self._layers)
        self._frozen = FrozenLayers(self.model, self._layers, self.frozen_layers)
        self._spread: Spread | None = None
        # After the fold's hooks: it sees the rows as they are tiled.
        self._last = last_layer_of(self.model, architecture) if self.pooling in POSITIONS else None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every trainable weight, without draws."""
        return dict(self.sites.shapes)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Return the base's layers, the lowest first."""
        return self._layers

    @property
    def depth(self) -> int:
        """Return how many layers the base has."""
        return len(self._layers)

    @property
    def device(self) -> torch.device:
        """Return where the model computes."""
        device: torch.device = self.model.device
        return device

    @property
    def frozen_layers(self) -> int:
        """Return how many layers are below the lowest one with a method in it.

        0 where they cannot be run apart from the others.
        """
        places = [site.layer for _, site in self.sites.items() if site.layer is not None]
        apart = self._folds and not self.head.several
        return max(0, min(places, default=0)) if apart else 0

    def to(self, device: torch.device | str) -> AdaptedModel:
        """Move everything to one device, in place."""
        if self._spread is not None:
            self._spread.remove()
            self._spread = None
        self.model.to(device)
        self.head.to(device)
        return self

    def spread(
        self, devices: Sequence[torch.device], room: Sequence[int] | None = None
    ) -> AdaptedModel:
        """Put the layers on several devices, in place; see `bhpeft.models.devices`.

        Args:
            devices: the first one has the rest of the model too.
            room: bytes that each has; what is free, by default.
        """
        if len(devices) == 1:
            return self.to(devices[0])
        free = room or [free_bytes(device) for device in devices]
        self._spread = Spread(self.model, self._layers, devices, free)
        self.head.to(devices[0])
        return self

    @property
    def places(self) -> list[torch.device]:
        """Return the device of each layer."""
        return self._spread.places if self._spread else [self.device] * self.depth

    def swapped(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Use `weights` in place of the model's own for a `with` block, backward pass included."""
        if self._spread is not None:
            weights = self._spread.at_home(self.sites, weights)
        return swapped(self.sites, weights)

    def logits(self, minibatch: Minibatch, per_example: bool = False) -> Tensor:
        """Return the logits of a minibatch under the weights in place.

        Args:
            minibatch: input_ids and attention_mask, (B, T) each; where it has `features`, the
                model starts above its frozen layers, from these.
            per_example: the weights hold one draw for each example (S = B): nothing is tiled, and
                row b is example b under draw b.

        Returns:
            (S·B, C) float32, row s·B + b being example b under draw s; (B, C) where nothing is
            drawn, or per example.

        Raises:
            StateError: per example, but not as many draws as examples.
        """
        draws, rows = self.sites.draws, len(minibatch["input_ids"])
        minibatch = self.head.reads(minibatch)
        ids = minibatch["input_ids"].to(self.device)
        mask = minibatch["attention_mask"].to(self.device)
        if per_example and draws not in (None, rows):
            raise StateError(
                "Weights drawn per example do not fit the minibatch",
                found=f"{draws} draws for {rows} examples",
                expected="one draw for each example",
                remedy="Draw as many as the minibatch has rows.",
            )
        if draws is not None and not self._folds:
            return self._looped(ids, mask, per_example)
        folds = 1 if per_example or draws is None else draws
        with self._above(minibatch.get("features")):
            pooled = self._pooled(ids, mask, folds)
        if len(pooled) < folds * len(ids):
            pooled = tile(pooled, folds)
        return self.head(pooled, minibatch)

    def features(self, minibatch: Minibatch) -> Tensor:
        """Return what the frozen layers make of a minibatch, (B, T, d), whatever the weights."""
        ids, mask = (minibatch[name].to(self.device) for name in ("input_ids", "attention_mask"))
        return self._frozen.hidden(ids, mask)

    @torch.no_grad()
    def embed(self, minibatch: Minibatch) -> Tensor:
        """Return the mean of the frozen base's last hidden states, (B, d) float32.

        One pass of the base with every method left out: what it says about a text is the same in
        all rounds, so a shift of it is a shift of the data.
        """
        ids = minibatch["input_ids"].to(self.device)
        mask = minibatch["attention_mask"].to(self.device)
        with bypassed(self.sites):
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return mean_pooled(hidden, mask).float()

    @torch.no_grad()
    def key_value_std(self, minibatch: Minibatch) -> dict[str, float]:
        """Return the standard deviation of the real keys and values at every prefix, by site name.

        It is measured on the frozen base, over the real tokens of the minibatch. A prefix's prior
        is a fraction of it.
        """
        spread: dict[str, float] = {}
        mask = minibatch["attention_mask"].bool().to(self.device)
        handles = [
            site.module.register_forward_pre_hook(_measuring(site, mask, spread))
            for _, site in self.sites.items()
            if isinstance(site.module, PrefixKeyValue)
        ]
        try:
            self.embed(minibatch)
        finally:
            for handle in handles:
                handle.remove()
        return spread

    @contextmanager
    def checkpointed(self) -> Iterator[None]:
        """Recompute each layer in the backward pass instead of keeping its activations.

        Memory for one layer instead of all, for about a third more time; the gradients are the
        same. The model's own switch would also make the embeddings require gradients, and so keep
        and recompute the frozen layers; the layers' switches are set one by one instead. A layer
        obeys only in training mode; its submodules stay out of it, so that dropout stays off.
        """
        layers: list[Any] = list(self._layers)
        for layer in layers:
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
            layer.gradient_checkpointing = layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.gradient_checkpointing = layer.training = False

    def _above(self, features: Tensor | None) -> AbstractContextManager[None]:
        if features is None:
            return nullcontext()
        return self._frozen.instead(features.to(self.device))

    def _pooled(self, ids: Tensor, mask: Tensor, folds: int) -> Tensor:
        """Return one vector a row, of B or of S·B rows."""
        if self._last is None or not self._last.ready:
            hidden, mask = self._hidden(ids, mask, folds)
            return POOLINGS[self.pooling](hidden, mask)
        drawn = folds if self.sites.lowest_drawn == self.depth - 1 else 1
        with self._last.at(POSITIONS[self.pooling](mask), mask.shape[1], drawn):
            hidden, _ = self._hidden(ids, mask, folds // drawn)
        return hidden.squeeze(1)

    def _hidden(self, ids: Tensor, mask: Tensor, folds: int) -> tuple[Tensor, Tensor]:
        """Return the last hidden states and the mask, both of B or both of S·B rows."""
        rows, lowest = len(ids), self.sites.lowest_drawn
        if folds == 1 or lowest is None:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask
        if lowest == INPUT:
            ids, mask = tile(ids, folds), tile(mask, folds)
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask
        with self._fold.over(folds, rows, lowest):
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return hidden, tile(mask, folds)

    def _looped(self, ids: Tensor, mask: Tensor, per_example: bool) -> Tensor:
        """Return what one folded pass would, by one pass a draw."""
        draws = []
        for s in range(self.sites.draws or 1):
            rows = slice(s, s + 1) if per_example else slice(None)
            with self.swapped(self.sites.one_draw(s)):
                draws.append(self.logits({"input_ids": ids[rows], "attention_mask": mask[rows]}))
        return torch.cat(draws)


def _measuring(site: Site, mask: Tensor, spread: dict[str, float]) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, Tensor]) -> None:
        key, value = args
        real = (key if site.attribute == "key" else value).transpose(1, 2)[mask.to(key.device)]
        spread[site.name] = float(real.float().std())

    return hook
