"""The command line: commands, progress and error messages."""
