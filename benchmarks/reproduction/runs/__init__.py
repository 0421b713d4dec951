"""Runs: each module has one function, settings and a folder in, figures out, all JSON.

batch       one batch learned under one recipe, and what is said of unseen rows
rounds      a sequence of batches under one strategy, judged on every domain after each
population  several tasks under a hierarchical prior
traps       the traps of the method on models whose posterior is known
"""
