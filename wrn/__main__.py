"""`python -m wrn` is `wrn`; both begin here."""


def main() -> int:
    """Run the command line. Ctrl-C while it is still being imported is Ctrl-C, not a traceback."""
    try:
        from wrn.cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
