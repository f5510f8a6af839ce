"""Trained models for use outside of training: images and texts to embeddings."""
