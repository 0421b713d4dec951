"""Continual learning for the adapters of language models: posterior → prior rounds under gates.

Nothing heavy is imported here; import what you use:

    from bhpeft.stream import find_stream      a stream file as a value
    from bhpeft.registry import Registry       runs, versions, aliases, lineage
    from bhpeft.rounds import learn, pending   a round, and the batches that wait for one
    from bhpeft.learning.predict import Predictor
"""

from bhpeft.secrecy import silence

silence()
