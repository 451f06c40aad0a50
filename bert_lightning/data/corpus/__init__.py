"""From text files to a token store: documents, shards, and preparation on several processes."""
