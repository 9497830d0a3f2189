"""The ground: a study's folder, settings, schemas, tables, results, words and the style of figures."""
