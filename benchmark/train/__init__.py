"""One cell, from its spec to its outcome.

job: any cell, and why it failed. context: what a cell works with. finetune: a tested run. pretrain:
a source's weights. measure: a distance. features, heads, softmax: frozen networks. network, archs,
weights, augment, loop: the training itself. energy: joules.
"""
