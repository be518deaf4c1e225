"""Copies of folders at fsspec URLs (`s3://bucket/run`): `copies` makes, checks and reads them."""

from .names import is_url, shown

__all__ = ["is_url", "shown"]
