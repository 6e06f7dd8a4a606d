"""``python -m hybrid_infer`` is the command line."""

from hybrid_infer.cli import main

if __name__ == "__main__":
    main()
