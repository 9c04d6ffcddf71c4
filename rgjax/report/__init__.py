"""What a report is made of: runs as rows, the numbers of a study, its tables, its figures and its page."""
