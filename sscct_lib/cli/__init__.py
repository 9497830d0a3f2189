"""The command `sscct`."""
