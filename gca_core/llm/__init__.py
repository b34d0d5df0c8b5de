"""Chat models and text embeddings behind one interface."""
