"""Who runs a plan on several models: this process, or the workers of a cluster.

`base.Matrix` is a plan on its models; `local` and `ray` run it, `schedule` says which model gets
the next worker, `scale` simulates that, `status` shows what happens.
"""
