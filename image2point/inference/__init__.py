"""A network in use: what it says of raw clouds and scenes."""
