"""Where bytes are kept, each behind the same few calls: local disk, Google Cloud Storage, S3 and what speaks like it."""
