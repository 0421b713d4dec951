"""Continual learning for the adapters of language models: posterior → prior rounds under gates.

Nothing heavy is imported here; import what you use:

    from bhpeft.stream import find_stream      a stream file as a value
    from bhpeft.registry import Registry       runs, versions, aliases, lineage
    from bhpeft.rounds import learn, pending   a round, and the batches that wait for one
    from bhpeft.learning.predict import Predictor
"""

import os

from bhpeft.allocator import one_arena
from bhpeft.secrecy import silence

silence()
one_arena()

# In bfloat16 on a CPU a kernel is compiled for every shape of a product, and oneDNN and what calls
# it keep a thousand each. Texts make new shapes all the time: a process grew by half a gigabyte
# over a few hundred rows, and was no faster for it. They read this at their first product.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "32")
