"""Writes stores of latents in the formats that trainers read: a module for each kind of file."""
