"""From text files to a token store: documents, shards, preparation on several processes."""
