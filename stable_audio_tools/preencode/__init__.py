"""Pre-encoding: audio becomes latents once, before training, on any number of devices, and goes on where it was stopped."""
