"""``python -m agent`` is ``busyweight``."""

import sys

from agent.cli import main

sys.exit(main())
