"""ZooKeeper for mqadmin: a kazoo client with persistent recursive watches and bulk reads, the node formats and their paths."""
