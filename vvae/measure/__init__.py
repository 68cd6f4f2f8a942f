"""Measurements that validation and the tasks share."""
