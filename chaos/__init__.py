"""Break a running stream on purpose, run it again, and look for anything that is not as promised.

`faults.py` lists what is broken: `python -m chaos kills` kills a worker at every place it reads or
writes, `zombies` suspends it there and wakes it too late, others fill the disk, spoil the store,
put clocks wrong or move the alias by hand; `python -m chaos.fleet` takes a host from a fleet. Each
run ends with the invariants of `invariants.py`. The product is not touched: places are found from
outside, by Python's audit events, SQLAlchemy's, a stand-in for MLflow's client and the runner of a
round's steps.
"""
