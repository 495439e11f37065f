"""Side-by-side measurements: `image2point bench conv|network|train|plan`."""
