"""Datasets: they yield audio and metadata, and never build a model."""
