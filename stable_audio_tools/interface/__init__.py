"""The web page: generating in a browser."""
