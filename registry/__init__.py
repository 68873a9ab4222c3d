"""Everything on the server that touches ZooKeeper: what is to be published at which path, and who runs it."""
