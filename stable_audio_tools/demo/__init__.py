"""The demo: train on sounds made here, generate from prompts, and measure how well that worked."""
