"""Measures the audit backfill: `python -m tests.bench --help`. It prints figures and never fails on one."""
