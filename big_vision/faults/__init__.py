"""Faults on purpose: kills, stops and damages runs, and compares them."""
