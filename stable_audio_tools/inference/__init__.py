"""Generating with trained models."""
