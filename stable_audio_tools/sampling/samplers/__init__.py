"""Samplers: ways to follow a network from noise to data."""
