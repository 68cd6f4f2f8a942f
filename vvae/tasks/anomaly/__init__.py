"""What does not look like the training videos?"""
