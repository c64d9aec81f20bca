"""Pictures of annotations, patches, learning and predictions (matplotlib)."""
