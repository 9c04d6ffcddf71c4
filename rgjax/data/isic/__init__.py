"""The files of HAM10000 and of the ISIC challenges and archive."""
