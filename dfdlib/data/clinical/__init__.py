"""What the loaders of credentialed data sets share."""
