"""`python -m bench`: the same as `parley bench`, from a checkout."""

from bench.cli import main

if __name__ == "__main__":
    main()
