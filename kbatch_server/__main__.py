"""Run the service: ``python -m kbatch_server``."""

from .app import main

if __name__ == "__main__":
    main()
