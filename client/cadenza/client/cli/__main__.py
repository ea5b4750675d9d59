"""`python -m cadenza.client.cli`: the command where no script is installed."""

import sys

from cadenza.client.cli import main

sys.exit(main())
