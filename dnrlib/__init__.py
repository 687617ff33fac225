"""Denoising training for neural rerankers, and the evaluation that goes with it."""

__version__ = "0.1.0"
