"""``python -m timbr_wamp`` runs the command ``timbr-wamp``. The host and ``up`` start child processes with it."""

from timbr_wamp.cli import main

if __name__ == "__main__":
    main(prog_name="timbr-wamp")
