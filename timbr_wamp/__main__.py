"""``python -m timbr_wamp`` is the command ``timbr-wamp``; the host and ``up`` start their children so."""

from timbr_wamp.cli import main

if __name__ == "__main__":
    main(prog_name="timbr-wamp")
