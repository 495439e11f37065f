"""A run's life: from a config to its directory, and from the directory back to a network that can be used."""
