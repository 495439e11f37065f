"""Many runs from one config: which there are, who runs them, and what came out."""
