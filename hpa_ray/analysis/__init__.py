"""What a trained model has learned, and what its mistakes have in common."""
