"""Bad input on purpose: one file a target, inputs that a seed decides, and one runner.

    python -m tests.fuzz TARGET --inputs 100000 --seed 0

tells how many inputs were accepted and how many were refused with which error, and what went wrong.
"""
