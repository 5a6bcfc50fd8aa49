"""``sat demo``."""


def demo() -> None:
    """Placeholder."""
