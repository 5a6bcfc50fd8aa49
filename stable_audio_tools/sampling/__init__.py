"""From noise to data, given any callable. Pure functions: no networks, no configs, no files."""
