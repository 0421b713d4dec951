"""Learning one batch: variants as data, the state as a value, the fit, the prediction.

variants   which weights are Gaussian, under which first prior: BH_PEFT, BLOB
plan       epochs and learning rates
state      the posterior on disk: safetensors and JSON
build      the model a state describes, and the state round 0 starts from
descent    one step down the loss
course     how many steps a round needs
fit        all of them
joint      several tasks at once, around what they have in common
sharing    which posteriors may share, and where a new one starts
predict    fixed draws, folded into one forward pass
"""
