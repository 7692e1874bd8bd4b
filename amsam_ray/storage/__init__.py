"""Where results are stored: a directory or an S3 bucket."""
