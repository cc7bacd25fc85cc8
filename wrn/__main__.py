"""`python -m wrn` is `wrn`."""

from wrn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
