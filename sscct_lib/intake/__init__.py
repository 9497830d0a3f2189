"""From a hospital's export to a study in which nobody can be recognised."""
