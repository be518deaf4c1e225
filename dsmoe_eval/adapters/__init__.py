"""Steered models and suites for other harnesses: lm-eval models, Inspect providers and tasks."""
