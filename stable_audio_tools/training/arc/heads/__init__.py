"""Heads: from hidden states of a diffusion model to scores."""
