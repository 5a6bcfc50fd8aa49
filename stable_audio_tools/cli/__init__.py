"""The command ``sat``: one file per command."""
