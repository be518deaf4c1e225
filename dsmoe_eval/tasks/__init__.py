"""Tasks: items and their text, local data, loading through lm-eval, scoring, leakage.

Import the modules: `compare` needs the text of items, but not lm-eval.
"""
