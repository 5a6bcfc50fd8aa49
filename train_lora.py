"""Train an adapter: python train_lora.py --model-config M.json --dataset-config D.json --pretrained-ckpt-path BASE. See --help."""

from stable_audio_tools.cli.train import script_lora

if __name__ == "__main__":
    script_lora()
