"""What a config file may say. Nothing here imports torch, so mistakes are reported at once."""
