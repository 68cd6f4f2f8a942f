"""What the scoreboard measures: one file a task, each with the function `measure`."""
