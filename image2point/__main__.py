"""`python -m image2point` is the command `image2point`."""

from image2point.cli import main

if __name__ == "__main__":
    main()
