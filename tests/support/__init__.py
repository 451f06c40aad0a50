"""What several tests share: small texts and tables, processes that train together, commands."""
