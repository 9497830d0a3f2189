"""The rendered book."""
