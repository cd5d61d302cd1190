"""`python -m hybridgen` is the command `hybridgen`."""

from hybridgen.cli import main

if __name__ == "__main__":
    main()
