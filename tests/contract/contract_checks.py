"""The sink contract as checks: each takes a harness over an empty destination and fails if a promise isn't kept.

`test_sinks.py` runs all over every sink; `test_broken_sinks.py` shows that each kind of broken sink fails one.
"""

from __future__ import annotations

import contract_commits
import contract_evolution
import contract_tables
from contract_base import CHECKS, Check, checks_for, committed, expected, inserts, opened

MODULES = (contract_commits, contract_evolution, contract_tables)
"""The checks are registered by importing these."""

__all__ = ["CHECKS", "MODULES", "Check", "checks_for", "committed", "expected", "inserts", "opened"]
