"""`python -m dsmoe_eval` is `dsmoe-eval`."""

from .cli import main

main()
