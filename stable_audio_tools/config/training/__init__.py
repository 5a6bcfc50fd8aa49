"""The ``training`` section of a model config: one file per kind of wrapper."""
