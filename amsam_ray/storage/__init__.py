"""Storage of results in a folder or an S3 bucket, and the spool in front of it."""
