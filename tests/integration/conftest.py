"""Tests here share how a pipeline is deployed and run (`test_end_to_end`)."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
