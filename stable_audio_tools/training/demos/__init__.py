"""Demos: what a model sounds like while it is trained."""
