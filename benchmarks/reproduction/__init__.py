"""What the papers claim, tried with this library: `make reproduce`, docs/reproduction.md.

    python -m benchmarks.reproduction             everything; goes on where it was cut off
    python -m benchmarks.reproduction R1 R5       these claims
    python -m benchmarks.reproduction --quick     every line once, on a few rows: the figures say
                                                  nothing; what CI runs

A *claim* (`claims/`) is a value: which *cells* it needs, and what follows from their results; so is
an *ablation* (`ablations/`), what a default of the library rests on. A *cell* is a run (`runs/`)
with its settings; its result is a JSON file under a digest of both, so that a run can be cut off at
any time, claims share cells, and several processes work on one list. `page` writes the page from
what is there. To add a claim or an ablation, write a module in its folder and a line in the
folder's `__init__.py`; where training itself changes, raise the edition of its runs in
`cells.RUNS`.

Labelled text is read from `$BHPEFT_DATA` (`benchmarks.texts`); without it only R8 runs.
"""
