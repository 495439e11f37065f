"""`python -m image2point.cli`."""

from image2point.cli import main

main()
