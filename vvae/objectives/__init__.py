"""Objectives that training minimises."""
