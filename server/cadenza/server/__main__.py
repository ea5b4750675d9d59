"""`cadenza-server` and `python -m cadenza.server`."""

import sys

import prometheus_client

from cadenza.server import app, logs
from cadenza.server.config import Settings


def main() -> None:
    """Reads the settings, serves, and exits with the code that says how it ended."""
    settings = Settings.from_command_line(sys.argv[1:])
    logs.configure(settings.log_format, settings.log_level)
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    sys.exit(app.run(settings))


if __name__ == "__main__":
    main()
