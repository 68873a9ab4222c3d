"""REST conventions: problem documents, permissions, paging."""
