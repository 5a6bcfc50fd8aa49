"""Export a model: python unwrap_model.py --model-config M.json --ckpt-path CKPT --name my_model. See --help, or `sat unwrap --help`."""

from stable_audio_tools.cli.unwrap import script

if __name__ == "__main__":
    script()
