"""The SDK of mqadmin: an application connects, reads the metadata of its topics and groups, and follows every change."""
