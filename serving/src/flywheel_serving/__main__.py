"""``python -m flywheel_serving``: the same as ``flywheel-serving``."""

import sys

from flywheel_serving.cli import main

sys.exit(main())
