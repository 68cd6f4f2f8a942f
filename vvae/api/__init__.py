"""What a program needs beyond pure functions: a trained run as an object, live scores, training."""
