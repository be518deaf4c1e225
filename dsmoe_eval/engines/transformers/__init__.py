"""The transformers engine: scoring and generation that compute shared beginnings once."""
