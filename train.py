"""Train a model: python train.py --model-config M.json --dataset-config D.json --name my_run. See --help, or `sat train --help`."""

from stable_audio_tools.cli.train import script

if __name__ == "__main__":
    script()
