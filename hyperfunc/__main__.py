"""``python -m hyperfunc``."""

from hyperfunc.cli import main

if __name__ == "__main__":
    main()
