"""Trained model + slide → score map → polygons, and how good they are."""
