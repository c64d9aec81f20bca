"""A run's report: its facts are gathered, its pictures made, and the page written."""

from __future__ import annotations

from qp2train.reporting.write import write_report

__all__ = ["write_report"]
