"""Show a model in a browser: python run_gradio.py --model-config M.json --ckpt-path CKPT. See --help, or `sat ui --help`."""

from stable_audio_tools.cli.ui import script

if __name__ == "__main__":
    script()
