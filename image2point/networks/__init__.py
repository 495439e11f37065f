"""Networks: what any of them offers, the 2D networks that are lifted, and where their weights come from."""
