"""`python -m circuit_lab`: the command line, as launchers of several processes start it."""

from circuit_lab.cli import main

if __name__ == "__main__":
    main()
