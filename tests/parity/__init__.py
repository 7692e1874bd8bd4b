"""The published procedures, written again literally and in other words, against this package with equal weights.

``python -m tests.parity`` prints the table; ``test_parity.py`` holds its figures within bounds.
"""
