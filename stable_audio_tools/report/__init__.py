"""HTML pages with players and pictures."""
