"""The tasks: what a trained model is asked. Each folder answers one kind of question."""
