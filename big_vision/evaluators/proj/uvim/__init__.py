"""Evaluators of UViM: https://arxiv.org/abs/2205.10337."""
