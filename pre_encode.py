"""Encode a dataset: python pre_encode.py --model-config M.json --ckpt-path CKPT --dataset-config D.json --output-path DIR. See --help."""

from stable_audio_tools.cli.pre_encode import script

if __name__ == "__main__":
    script()
