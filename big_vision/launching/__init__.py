"""Processes of one run: starts them on this machine, finds their places in it."""
