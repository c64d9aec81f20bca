"""Patch table → trained model. The first room that imports torch."""
