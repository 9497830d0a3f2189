"""The synthetic study, whose truth is known and kept apart."""
