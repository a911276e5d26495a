"""Routes of an application whose gateway has two existing web applications mounted in it."""
