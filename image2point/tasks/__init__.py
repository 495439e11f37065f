"""Tasks: what is asked of a network's features. Each says what its targets, its loss and its scores are."""
