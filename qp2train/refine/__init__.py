"""Prompts → corrected outlines. Nothing is in here yet."""
