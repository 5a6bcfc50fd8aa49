"""Training autoencoders."""

from stable_audio_tools.models.autoencoders.autoencoder import AudioAutoencoder
from stable_audio_tools.training.autoencoders.wrapper import AutoencoderTrainingWrapper
from stable_audio_tools.training.losses.bottleneck import create_loss_modules_from_bottleneck

__all__ = ["AudioAutoencoder", "AutoencoderTrainingWrapper", "create_loss_modules_from_bottleneck"]
