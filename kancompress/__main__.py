"""`python -m kancompress`."""

from kancompress.cli.main import main

if __name__ == "__main__":
    main()
