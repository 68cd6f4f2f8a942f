"""What validation and the tasks measure alike."""
