"""Questions to a trained model, a folder each."""
