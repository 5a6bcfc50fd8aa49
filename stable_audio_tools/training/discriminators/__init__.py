"""Discriminators: adversaries of autoencoders."""
