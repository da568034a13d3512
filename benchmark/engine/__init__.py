"""Where cells run.

worker: the process that runs them. pending: which is next. local: a worker per slot of this
machine. schedule: batches for a cluster; slurm, ray: the clusters; node: a batch on its node.
"""
