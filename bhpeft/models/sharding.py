"""Share a frozen base's weights among the processes of a training: each keeps 1/R of every layer.

A layer is gathered when it is entered, forward and backward, and given back when it is left, so a
device holds one layer of the base and the rest in shares. What methods add, the head, embeddings
and final norm stay whole on every device: the first two are what is drawn and swapped, the others
are few.

Source: Zhao et al. 2023 (arXiv 2304.11277), as torch's `fully_shard`.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from bhpeft.models.adapted import AdaptedModel


def shard(model: AdaptedModel) -> None:
    """Share the layers of a model that lies on the CPU, in place; then it is on the rank's device.

    To be called by all processes of a group together.
    """
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    own = {id(site.tensor) for _, site in model.sites.items()}
    whole = set()
    inside = {id(parameter) for layer in model.layers for parameter in layer.parameters()}
    for parameter in model.model.parameters():
        if id(parameter) in own or id(parameter) not in inside:
            parameter.data = parameter.data.to(kind)
            whole.add(parameter)
    model.head.to(kind)
    for layer in model.layers:
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    fully_shard(model.model, mesh=mesh, ignored_params=whole)
