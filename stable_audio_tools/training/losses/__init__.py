"""Losses of autoencoders and diffusion models."""
